"""Gradients written by hand, which nothing can differentiate once more."""

from collections.abc import Callable

import jax


def once(rule: Callable) -> Callable:
  """A forward or backward rule of a `jax.custom_vjp` that refuses its own derivative.

  Otherwise a second derivative ends in the depths of JAX, at a loop or a kernel. The
  first in forward mode, `jax.jvp`, is refused by JAX itself, as of every `custom_vjp`.

  Raises:
    ValueError: when the result is differentiated.
  """
  guarded = jax.custom_jvp(rule)

  @guarded.defjvp
  def refuse(primals, tangents):
    raise ValueError(
      "dispatch must be 'capacity' or 'einsum' for second derivatives and for jax.jvp, "
      "got 'sorted' or 'rounds', which have first derivatives in reverse mode only."
    )

  return guarded
