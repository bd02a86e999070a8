"""What the program that generates text can be asked for."""

from dataclasses import dataclass

from system.flag import flag

N_SEEDS = 2**32  # after the last one comes the first


@dataclass(frozen=True)
class GenerateSettings:
    """The prompt, how words are drawn, and how many."""

    prompt: str | None = flag(None, "text to continue, as if a line began with it", kind=str)
    prompt_file: str | None = flag(
        None, "file with that text (default: standard input, where it is no terminal)", kind=str, is_place=True
    )
    length: int = flag(200, "words of a sample, line ends included", least=1)
    temperature: float = flag(1.0, "words are drawn from p^(1/temperature); 0 takes the likeliest", least=0)
    top_k: int = flag(0, "draw from this many of the likeliest words; 0 means all", least=0)
    top_p: float = flag(
        1.0, "draw from the fewest likeliest words with this share of the probability", above=0, below=1, or_exactly=1
    )
    stop: str | None = flag(None, "word that ends a sample; <eos> is the end of a line", kind=str)
    samples: int = flag(1, "samples, computed as one batch; each is what its own seed gives alone", least=1)
    seed: int = flag(1111, "random seed of the first sample; the next one's is one more", least=0, below=N_SEEDS)
