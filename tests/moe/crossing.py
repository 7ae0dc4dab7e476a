"""Every dispatch in two processes, against one device of each; a test starts both.

Prints, in each process, the dispatches whose values and gradients are equal.
"""

import functools

import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np

from mhmoe_jax import sharding
from mhmoe_jax.moe import routing, transport
from mhmoe_jax.moe.config import DISPATCHES
from mhmoe_jax.moe.ffn import ExpertWeights
from mhmoe_jax.train.processes import join

G, S, M, E, F, K = 8, 4, 8, 8, 6, 2
close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)


@functools.partial(jax.jit, static_argnums=0)
def run(method, x_GSM, w_ME, weights):
  def loss(x_GSM, w_ME, weights):
    logits_GSE = routing.linear_logits(x_GSM, w_ME)
    route = routing.choose(logits_GSE, jnp.ones((G, S), bool), K, renormalize=False)
    y_GSM, delivery = transport.apply_experts(x_GSM, route, weights, method, 1.25)
    return jnp.sin(y_GSM).sum(), delivery.rounds

  return jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(x_GSM, w_ME, weights)


def main():
  join()
  draw = np.random.default_rng(0).standard_normal
  shapes = (G, S, M), (M, E), (E, M, F), (E, F, M)
  x_GSM, w_ME, *matrices = (draw(shape).astype(np.float32) for shape in shapes)
  # All choices on two experts, which are on two devices of process 1.
  x_GSM[..., 0], w_ME[0] = 3, [0, 0, 0, 0, 0, 9, 0, 9]
  weights = ExpertWeights(*matrices)
  mesh = sharding.make_mesh(data=1, expert=8)
  split = NamedSharding(mesh, PartitionSpec("expert"))

  def place(w):
    return jax.make_array_from_callback(w.shape, split, lambda part: w[part])

  placed = place(x_GSM), w_ME, jax.tree.map(place, weights)
  for method in DISPATCHES:
    (expected, _), gradients = run(method, x_GSM, w_ME, weights)
    with jax.set_mesh(mesh):
      found = multihost_utils.process_allgather(run(method, *placed), tiled=True)
    (loss, rounds), found = found
    jax.tree.map(close, (loss, found), (expected, gradients))
    print(method, rounds)


if __name__ == "__main__":
  main()
