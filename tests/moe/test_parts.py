"""What the layer says of parts of a sequence: as of a layer that sees them alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mhmoe_jax import MoeConfig, MultiHeadMoe
from mhmoe_jax.moe import layer

CONFIG = MoeConfig(num_heads=2, num_experts=4, expert_dim=6, top_k=2)
PARTS = (("image", 5), ("text", 3))


def test_parts_are_as_alone_and_entropies_by_numpy(key):
  x_BLD = jax.random.normal(key, (3, 8, 8))
  mask_BL = jnp.ones((3, 8), bool).at[0, 2].set(False).at[1, 5:].set(False)
  moe = MultiHeadMoe(CONFIG, parts=PARTS)
  variables = moe.init(key, x_BLD)
  variables = jax.tree.map(lambda x: 2 * x, variables)  # Routers have preferences.
  _, aux = jax.jit(moe.apply)(variables, x_BLD, mask_BL)
  assert list(aux.parts) == ["image", "text"]
  # As the layer does before its router, from the parameters.
  params = variables["params"]
  head = params["head"]
  y_BLD = x_BLD @ head["w_0_DP"] + head.get("b_0_P", jnp.zeros(8))[None, None]
  router = layer.Router(CONFIG)
  logits = router.apply({"params": params["router"]}, y_BLD.reshape(3, 16, 4))
  p_BLHE = np.exp(np.asarray(logits, np.float64)).reshape(3, 8, 2, 4)
  p_BLHE /= p_BLHE.sum(axis=-1, keepdims=True)
  start = 0
  for name, length in PARTS:
    where = slice(start, start + length)
    start += length
    _, alone = MultiHeadMoe(CONFIG).apply(variables, x_BLD[:, where], mask_BL[:, where])
    found = aux.parts[name]
    for field, value in alone.stats._asdict().items():
      np.testing.assert_allclose(
        getattr(found.stats, field), value, rtol=1e-6, atol=1e-7, err_msg=field
      )
    p_TE = p_BLHE[:, where][np.asarray(mask_BL[:, where])].reshape(-1, 4)
    local = -(p_TE * np.log(p_TE)).sum(axis=-1).mean()
    mean_E = p_TE.mean(axis=0)
    np.testing.assert_allclose(found.local_entropy, local, rtol=1e-5)
    np.testing.assert_allclose(
      found.global_entropy, -(mean_E * np.log(mean_E)).sum(), rtol=1e-5
    )
    assert found.local_entropy < found.global_entropy < np.log(4)


def test_a_part_of_padding_alone_says_nothing(key):
  """Its numbers are zero, and their gradients finite."""
  x_BLD = jax.random.normal(key, (2, 8, 8))
  mask_BL = jnp.arange(8)[None].repeat(2, 0) < 5
  moe = MultiHeadMoe(CONFIG, parts=PARTS)
  variables = moe.init(key, x_BLD)

  def entropies(variables):
    part = moe.apply(variables, x_BLD, mask_BL)[1].parts["text"]
    return part.local_entropy + part.global_entropy, part

  (total, part), gradient = jax.value_and_grad(entropies, has_aux=True)(variables)
  assert total == 0
  assert part.stats.entropy == part.stats.dropped_sender == 0
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradient))
  assert not any(np.any(x) for x in jax.tree.leaves(gradient))


@pytest.mark.parametrize(
  "parts", [(("a", 9),), (("a", 2), ("b", 7)), (("a", 0), ("b", 3)), (("a", -1),)]
)
def test_parts_that_are_not_there(key, parts):
  rule = r"^parts must have at least 1 token each and at most L together, got .*L=8\."
  with pytest.raises(ValueError, match=rule):
    MultiHeadMoe(CONFIG, parts=parts).init(key, jnp.ones((3, 8, 8)))
