"""Stand-ins for Mikolov's preparation of Penn Treebank, of the same form and far smaller.

Lower-case words, `N` for numbers and `<unk>` for rare words; a sentence a line, with a blank at both of its ends. In
the files of characters a blank stands between any two of them, and `_` for the blank between words.
"""

import random
from pathlib import Path

WORDS = ("the", "a", "of", "to", "in", "said", "'s", "new", "$", "N", "mr.", "<unk>", "it", "u.s.", "n't", "million")
SENTENCES = {"train": 160, "valid": 30, "test": 30}


def write_penn(folder: Path, *, spelled: bool = False, seed: int = 0) -> Path:
    """train.txt, valid.txt and test.txt in `folder`; `spelled` those of characters, of the same sentences."""
    draw = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for split, n in SENTENCES.items():
        sentences = [draw.choices(WORDS, k=draw.randrange(2, 9)) for _ in range(n)]
        lines = [" ".join("_".join(words) if spelled else words) for words in sentences]
        (folder / f"{split}.txt").write_text("".join(f" {line} \n" for line in lines), encoding="utf-8")
    return folder
