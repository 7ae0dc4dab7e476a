"""Visual vocabularies: patches of pictures to ids, and ids back to patches.

What a masked patch is to be told by (2208.10442 section 2.2). `vocabulary.py` is the
interface, `kmeans.py` and `vqvae.py` are the two kinds, `fit.py` makes one from
pictures, `saved.py` keeps it, `sheet.py` draws what it keeps of a picture.

| letter | meaning |
|---|---|
| B, P, U | pictures; patches of a picture; numbers of a patch |
| W, R | codes; numbers of a code, or of a whitened patch |
| T | patches of many pictures |
| L, D | places around a patch; width of a network |
"""
