"""What a backward pass computes again instead of keeping it.

Policies by name, each of which computes again what those before it do, and keeps less.
Chosen by `model.remat`; `mhmoe plan --sweep remat` ranks them.
"""

from flax import linen as nn
import jax

# What experts and the attention kernel return; `checkpoint_name` tells jax.
_KEPT = jax.checkpoint_policies.save_only_these_names("attention", "experts")
POLICIES = {
  "none": jax.checkpoint_policies.everything_saveable,
  # Norms, casts, activations, sorting, communication: all that multiplies no matrices.
  "norms": jax.checkpoint_policies.save_from_both_policies(
    jax.checkpoint_policies.dots_saveable, _KEPT
  ),
  "projections": _KEPT,  # All else than attention and experts, too.
  "blocks": jax.checkpoint_policies.nothing_saveable,
}


def remat(blocks: type[nn.Module], name: str) -> type[nn.Module]:
  """The module to be scanned, under a policy of `POLICIES`."""
  if name == "none":
    return blocks
  # A loop's body is not merged with what comes later, whatever that computes again.
  return nn.remat(blocks, prevent_cse=False, policy=POLICIES[name])
