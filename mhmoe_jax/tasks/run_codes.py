"""The visual vocabulary of a run: fitted when it begins, or made before."""

from collections.abc import Callable
import dataclasses
from typing import Any

from etils import epath

from mhmoe_jax.codes import saved
from mhmoe_jax.codes.measure import describe
from mhmoe_jax.codes.vocabulary import VisualVocabulary

Tell = Callable[[str], None]
_STEPS = {"kmeans": 20, "vqvae": 1_000}  # where the config says 0


def folder_of(workdir: str) -> str:
  """Where a run keeps its own."""
  return f"{workdir}/image_tokenizer"


def prepare(
  data: Any, codes: VisualVocabulary, picture_size: int, workdir: str, say: Tell
) -> None:
  """Fits the run's own, unless one is there of a start that was killed.

  Args:
    data: `MaskedDataConfig`.
    codes: kind, number and patches.
    picture_size: of the model.
    workdir: of the run.
    say: tells the user a line.

  Raises:
    ValueError: there is one, of another config.
  """
  folder, facts = folder_of(workdir), _describe(data, picture_size)
  if saved.exists(folder):
    found = load(folder, codes).fitted_to
    for name, now in facts.items():
      if found.get(name) != now:
        raise ValueError(
          f"the visual vocabulary of a run must be that of its config, got {name} "
          f"{now}, which was {found.get(name)}; remove {folder} to fit another."
        )
    return
  # In the end it is there as a whole.
  begun = epath.Path(f"{folder}.begun")
  begun.rmtree(missing_ok=True)

  def tell(line: str) -> None:
    say(f"image tokenizer: {line}")

  built = fit(data, codes, picture_size, str(begun), tell)
  begun.rename(folder)
  tell(f"{describe(built.statistics)}; {folder}")


def fit(
  data: Any, codes: VisualVocabulary, picture_size: int, folder: str, tell: Tell
) -> saved.Saved:
  """Fits one to the training pictures of a config, and writes it to `folder`."""
  # With optax and Pillow, which reading one needs not.
  from mhmoe_jax.codes import build
  from mhmoe_jax.codes.fit import check_pictures
  from mhmoe_jax.data.masked.rows import sample_pictures

  pictures_NYXC = sample_pictures(data, picture_size)
  check_pictures(codes, pictures_NYXC.shape)
  tell(
    f"{codes.kind} of {codes.num_codes:,} codes, from {len(pictures_NYXC):,} pictures"
  )
  return build.build(
    folder,
    codes,
    pictures_NYXC,
    _describe(data, picture_size),
    steps=data.codes.steps or _STEPS[codes.kind],
    seed=data.seed,
    tell=tell,
  )


def load(folder: str, codes: VisualVocabulary) -> saved.Saved:
  """Reads one, which must be of this kind, number and patches.

  Raises:
    ValueError: it is not, or it is not there, or damaged.
  """
  found = saved.load(folder)
  saved.check(found, patch_size=codes.patch_size, num_codes=codes.num_codes)
  if found.vocabulary.kind != codes.kind:
    raise ValueError(
      f"data.codes.kind must be that of the visual vocabulary, got {codes.kind!r} "
      f"and {found.vocabulary.kind!r} of {folder}."
    )
  return found


def _describe(data: Any, picture_size: int) -> dict[str, Any]:
  """What decides what comes of a fit, as JSON values."""
  names = ("images", "pairs", "codes")
  facts = {name: dataclasses.asdict(getattr(data, name)) for name in names}
  return facts | {"picture_size": picture_size, "seed": data.seed}
