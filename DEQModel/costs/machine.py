"""Machines, as far as the time of a step depends on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from modules.cost import Work


@dataclass(frozen=True)
class Machine:
    """A processor, its memory, and its ways to others of its kind.

    Attributes:
        name: for people.
        flops: float32 operations of matrix products a second.
        bandwidth: bytes a second that operations read and write.
        call: seconds that it takes to start an operation.
        waits: whether an operation is started when the one before has ended, as on a CPU; a GPU has a queue.
        memory: bytes of it; 0 where nobody asked.
        link: bytes a second to a neighbour in its node, in one direction; 0 where there is none.
        network: to a neighbour in another node.
        per_node: processors in a node.
    """

    name: str
    flops: float
    bandwidth: float
    call: float
    waits: bool
    memory: float = 0
    link: float = 0
    network: float = 0
    per_node: int = 1

    def seconds(self, work: Work) -> float:
        """Products take what their operations take, or what their memory traffic takes if that is longer; all else is
        traffic. A CPU starts its operations in that time too, a GPU has them started meanwhile.
        """
        computing = max(work.flops / self.flops, work.streamed / self.bandwidth) + work.moved / self.bandwidth
        starting = work.calls * self.call
        return computing + starting if self.waits else max(computing, starting)


GIGA = 1e9


def _gpu(name: str, tflops: float, gb_s: float, gb: float, nvlink: float, network: float) -> Machine:
    """A GPU in nodes of eight.

    Args:
        name: of it.
        tflops: peak float32 rate outside the tensor cores (this program leaves TensorFloat-32 off).
        gb_s: peak memory bandwidth, GB/s.
        gb: its memory.
        nvlink: GB/s to the others in its node, in both directions together, as datasheets have it.
        network: GB/s of its share of the node's network, in one direction.
    """
    return Machine(
        name,
        flops=tflops * 1e12,
        bandwidth=gb_s * GIGA,
        call=5e-6,  # what PyTorch takes to start a kernel from Python; no datasheet's figure
        waits=False,
        memory=gb * GIGA,
        link=nvlink / 2 * GIGA,
        network=network * GIGA,
        per_node=8,
    )


# As NVIDIA's datasheets have them (Tesla V100 SXM2, A100 80GB SXM, H100 SXM, H200 SXM): compared with published tables
# that quote these, rates, memory and NVLink agree. The network is that of systems of eight: DGX A100 (8 × 200 Gb/s
# InfiniBand) and DGX H100 and H200 (8 × 400 Gb/s), whose ports' rates agree too; that of DGX-1 (4 × 100 Gb/s), for the
# V100, is unchecked.
GPUS: Mapping[str, Machine] = {
    "v100": _gpu("V100", 15.7, 900, 32, 300, 6.25),
    "a100": _gpu("A100", 19.5, 2039, 80, 600, 25),
    "h100": _gpu("H100", 67, 3350, 80, 900, 50),
    "h200": _gpu("H200", 67, 4800, 141, 900, 50),
}
