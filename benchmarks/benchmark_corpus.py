"""Time and memory that it takes to count and encode a corpus of WikiText-103's size, and to start from the cache.

A text with WikiText-103's words, counts and number of lines, in random order, is generated in a temporary folder; each
measured start is a process of its own. The file of counts has a word and its count a line, tab-separated, gzipped,
without `<eos>` and `<unk>`.

    python benchmarks/benchmark_corpus.py --counts wikitext-103-vocab-counts.tsv.gz --folder /tmp
"""

import argparse
import gzip
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

IMPORT_ROOT = Path(__file__).resolve().parents[1] / "DEQModel"
WIKITEXT103_TOKENS = 103_227_021  # <eos> included
WIKITEXT103_UNKNOWN = 441_959
WIKITEXT103_HELD_OUT = {"valid": 217_646, "test": 245_569}  # tokens
START = """
import json, time
from data.corpus import Corpus
imported = time.perf_counter()
corpus = Corpus.load({folder!r}, "wt103")
loaded = time.perf_counter()
print(json.dumps([loaded - imported, len(corpus.vocab), len(corpus.train)]))
"""


def read_counts(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Words (V,) and their counts (V,), `<unk>` among them."""
    words, counts = ["<unk>"], [WIKITEXT103_UNKNOWN]
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            word, count = line.split("\t")
            words.append(word)
            counts.append(int(count))
    return np.array(words, dtype=object), np.array(counts)


def write_text(path: Path, words: np.ndarray, stream: np.ndarray, lines: int, rng: np.random.Generator) -> None:
    """The words of `stream`, (N,) places in `words`, on `lines` lines of random length."""
    ends = np.sort(rng.integers(0, len(stream), lines - 1))
    ends = np.concatenate((ends, [len(stream)]))
    with open(path, "w", encoding="utf-8") as file:
        begin = 0
        for block in np.array_split(ends, 1 + lines // 10_000):
            text = words[stream[begin : block[-1]]].tolist()
            starts = np.concatenate(([0], block[:-1] - begin))
            file.writelines(f" {' '.join(text[a:b])} \n" for a, b in zip(starts, block - begin, strict=True))
            begin = block[-1]


def generate(folder: Path, words: np.ndarray, counts: np.ndarray, n_tokens: int) -> None:
    """A corpus of three texts; the training text has `n_tokens` tokens, one `<eos>` a line among them."""
    rng = np.random.default_rng(0)
    scaled = np.round(counts * (n_tokens / WIKITEXT103_TOKENS)).astype(np.int64)
    stream = np.repeat(np.arange(len(words), dtype=np.int32), scaled)
    rng.shuffle(stream)
    write_text(folder / "train.txt", words, stream, n_tokens - len(stream), rng)
    for split, size in WIKITEXT103_HELD_OUT.items():
        held_out = rng.choice(stream, size - size // 57)
        write_text(folder / f"{split}.txt", words, held_out, size // 57, rng)


def measure(folder: Path) -> tuple[float, float, int, list]:
    """Seconds, processor seconds and peak resident bytes of a process that loads the corpus, and what it prints.

    The peak is the sum of the peaks of the process and all of its descendants, so an upper bound.
    """
    began, used = time.perf_counter(), processor_seconds()
    command = [sys.executable, "-c", START.format(folder=str(folder))]
    process = subprocess.Popen(command, cwd=IMPORT_ROOT, stdout=subprocess.PIPE, text=True)
    peaks: dict[int, int] = {}
    while process.poll() is None:
        for pid in family(process.pid):
            peaks[pid] = max(peaks.get(pid, 0), peak_bytes(pid))
        time.sleep(0.02)
    wall = time.perf_counter() - began
    if process.returncode:
        raise SystemExit(process.returncode)
    printed = json.loads(process.stdout.read())
    return wall, processor_seconds() - used, sum(peaks.values()), printed


def processor_seconds() -> float:
    """Of all descendants that have ended so far."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def family(pid: int) -> list[int]:
    """A process and its descendants."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(member for child in children for member in family(int(child)))]


def peak_bytes(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM")), 0)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--counts", type=Path, required=True, help="gzipped words and counts")
    parser.add_argument("--folder", type=Path, default=tempfile.gettempdir(), help="where the text is put")
    parser.add_argument("--tokens", type=int, default=WIKITEXT103_TOKENS, help="size of the training text")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        generate(folder, *read_counts(args.counts), args.tokens)
        size = (folder / "train.txt").stat().st_size
        print(f"training text: {args.tokens:,} tokens, {size / 1e6:,.0f} MB")
        print("start     wall (s)   of it load (s)   processor (s)   peak memory (MB)     types")
        for start in ("cold", "cached"):
            wall, used, peak, (load, n_types, n_tokens) = measure(folder)
            if n_tokens != args.tokens:
                raise SystemExit(f"{n_tokens} tokens came out")
            print(f"{start:8}{wall:10.1f}{load:17.2f}{used:16.1f}{peak / 1e6:19.0f}{n_types:10,}")


if __name__ == "__main__":
    main()
