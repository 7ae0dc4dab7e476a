"""The Multi-Head Mixture-of-Experts layer (2404.15045 section 3, 2411.16205 section 2).

head layer -> split into sub-tokens -> router -> experts -> merge -> merge layer. The
router decides, the dispatcher moves, the experts compute; each is a pure function in a
file of its own, and this file only strings them together.
"""

from typing import NamedTuple

from flax import linen as nn
import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from mhmoe_jax.moe import losses, routing, telemetry
from mhmoe_jax.moe.config import MoeConfig
from mhmoe_jax.moe.dropout import draw_seeds
from mhmoe_jax.moe.experts import DenseFfn, ExpertFfn, bias_init
from mhmoe_jax.moe.heads import check_rank_3, describe, merge_heads, split_heads
from mhmoe_jax.moe.transport import apply_experts
from mhmoe_jax.sharding import constrain, explicit_mesh


class PartAux(NamedTuple):
  """Of the tokens of a part of the sequence, such as a modality."""

  stats: telemetry.RouterStats
  local_entropy: jax.Array  # scalars, `losses.part_entropies`
  global_entropy: jax.Array


class MoeAux(NamedTuple):
  """What the layer returns beside its output; under `nn.scan` a leading N."""

  balance_loss: jax.Array  # scalar, 1.0 when the load is even
  router_z_loss: jax.Array  # scalar
  stats: telemetry.RouterStats
  choices: telemetry.Choices | None  # of every sub-token, if they were asked for
  parts: dict[str, PartAux]  # if they were asked for


class MultiHeadMoe(nn.Module):
  """Multi-Head MoE on tokens (B, L, D).

  Attributes:
    config: see `MoeConfig`.
    dtype: of the computation; parameters, router and losses are float32.
    trace: return the `Choices` of every sub-token, too.
    parts: names of parts of the sequence and how many tokens each has, one after the
      other, to return a `PartAux` of.
  """

  config: MoeConfig
  dtype: jnp.dtype = jnp.float32
  trace: bool = False
  parts: tuple[tuple[str, int], ...] = ()

  @nn.compact
  def __call__(
    self,
    x_BLD: jax.Array,
    mask_BL: jax.Array | None = None,
    deterministic: bool = True,
  ) -> tuple[jax.Array, MoeAux]:
    """Applies the layer.

    Args:
      x_BLD: tokens; `config.num_heads` must divide D.
      mask_BL: bool, False on padding, which is not read: its sub-tokens are not routed
        or counted, and it gets what a token of zeros gets from merge layer, residual
        and shared expert. The authors' code routes and counts them.
        None: all real. Integers are refused: `mask_BL != 0` says which is meant.
      deterministic: False in training, which selects `capacity_factor` instead of
        `eval_capacity_factor` in dispatches that drop, and switches on
        `expert_dropout`, whose key is the rng "dropout".

    Returns:
      The output (B, L, D) in `dtype`, without the block's residual, and `MoeAux`. A
      token with NaN or inf is NaN, in every dispatch, and spoils no other.

    Raises:
      ValueError: for inputs of another rank, shape or type, and for second derivatives
        of "sorted" and "rounds".
    """
    cfg = self.config
    mask_BL = _check_inputs(x_BLD, mask_BL, deterministic)
    self._check_fields(deterministic, x_BLD.shape[1])
    if mesh := explicit_mesh(x_BLD):
      if not self.is_initializing():
        return self._in_auto_mode(mesh, x_BLD, mask_BL, deterministic)
      whole = NamedSharding(mesh, PartitionSpec())
      x_BLD, mask_BL = jax.sharding.reshard((x_BLD, mask_BL), whole)

    # What padding holds may be anything, and inf would meet a gradient of 0.
    x_BLD = jnp.where(mask_BL[..., None], x_BLD, 0).astype(self.dtype)
    y_BLD = x_BLD
    if cfg.use_head_layer:
      y_BLD = LinearStack(cfg, 0.5**0.5, cfg.init, self.dtype, name="head")(y_BLD)
    x_BSM = constrain(split_heads(y_BLD, cfg.num_heads), "BSM")
    mask_BS = jnp.repeat(mask_BL, cfg.num_heads, axis=1)

    logits_BSE = Router(cfg, name="router")(x_BSM)
    route = routing.choose(logits_BSE, mask_BS, cfg.top_k, cfg.renormalize)
    weights = ExpertFfn(cfg, self.dtype, name="experts")(x_BSM.shape[-1])
    factor = cfg.eval_capacity_factor if deterministic else cfg.capacity_factor
    if cfg.dispatch == "rounds":
      factor = cfg.round_factor
    seeds_BSK = None
    if cfg.expert_dropout and not deterministic:
      seeds_BSK = draw_seeds(self.make_rng("dropout"), route.experts_GSK)
    y_BSM, delivery = apply_experts(
      x_BSM,
      route,
      weights,
      cfg.dispatch,
      factor,
      cfg.backend,
      cfg.expert_dropout,
      seeds_BSK,
    )
    if cfg.residual:
      y_BSM += x_BSM

    y_BLD = merge_heads(constrain(y_BSM, "BSM"), cfg.num_heads)
    y_BLD = checkpoint_name(y_BLD, "experts")
    if cfg.use_merge_layer:
      y_BLD = LinearStack(cfg, 1.0, "flax", self.dtype, name="merge")(y_BLD)
    if cfg.shared_dim:  # on whole tokens, beside all of the above
      dropout = nn.Dropout(cfg.expert_dropout, deterministic=deterministic)
      y_BLD += dropout(DenseFfn(cfg.shared_dim, cfg.style, name="shared")(x_BLD))
    return constrain(y_BLD, "BLD"), MoeAux(
      balance_loss=losses.balance_loss(route),
      router_z_loss=losses.router_z_loss(route),
      stats=telemetry.router_stats(route, delivery, cfg.num_heads),
      choices=telemetry.choices(route, delivery, cfg.num_heads) if self.trace else None,
      parts=self._part_aux(route, delivery),
    )

  def _part_aux(self, route, delivery) -> dict[str, PartAux]:
    found, start, H = {}, 0, self.config.num_heads
    for name, length in self.parts:
      part, kept_GSK = jax.tree.map(
        lambda x, a=start * H, b=(start + length) * H: x[:, a:b],
        (route, delivery.kept_GSK),
      )
      sent = kept_GSK.sum()
      of_part = delivery._replace(sent=sent, served=sent, kept_GSK=kept_GSK)
      stats = telemetry.router_stats(part, of_part, H)
      found[name] = PartAux(stats, *losses.part_entropies(part))
      start += length
    return found

  def _check_fields(self, deterministic: bool, L: int) -> None:
    """Raises ValueError for what the layer cannot be made of."""
    cfg = self.config
    if not isinstance(cfg, MoeConfig):
      raise ValueError(f"config must be a MoeConfig, got a {type(cfg).__name__}.")
    if not jnp.issubdtype(self.dtype, jnp.floating):
      raise ValueError(f"dtype must be floating-point, got {jnp.dtype(self.dtype)}.")
    lengths = [length for _, length in self.parts]
    if lengths and (min(lengths) < 1 or sum(lengths) > L):
      raise ValueError(
        "parts must have at least 1 token each and at most L together, got parts="
        f"{self.parts}, L={L}."
      )
    # Flax takes the rng "params" where one of another name is missing.
    has_rng = self.has_rng("dropout") or self.has_rng("params")
    if cfg.expert_dropout and not deterministic and not has_rng:
      raise ValueError(
        "expert_dropout needs apply(..., rngs={'dropout': key}) in training, got no "
        f"such rng and expert_dropout={cfg.expert_dropout}."
      )

  def _in_auto_mode(self, mesh, x_BLD, mask_BL, deterministic):
    """The same in a mesh with explicit axes, which are left to GSPMD inside."""
    layer = self.clone(parent=None, name=None)
    spec = jax.typeof(x_BLD).sharding.spec
    y_spec, a_spec, choices_spec = (
      NamedSharding(mesh, PartitionSpec(*axes)) for axes in (spec, (), spec[:1])
    )

    rngs = {"dropout": self.make_rng("dropout")} if self.has_rng("dropout") else {}

    def apply(variables, rngs, x_BLD, mask_BL):
      return layer.apply(variables, x_BLD, mask_BL, deterministic, rngs=rngs)

    choices_spec = choices_spec if self.trace else None
    parts_spec = {name: a_spec for name, _ in self.parts}
    aux = MoeAux(a_spec, a_spec, a_spec, choices_spec, parts_spec)
    auto = jax.sharding.auto_axes(apply, out_sharding=(y_spec, aux))
    return auto(self.variables, rngs, x_BLD, mask_BL)


def _check_inputs(x_BLD, mask_BL, deterministic) -> jax.Array:
  """The mask, all True for None. Raises ValueError for what the layer cannot take."""
  B, L, D = check_rank_3("x_BLD", x_BLD)
  if not L or not D:
    raise ValueError(f"x_BLD must have tokens and a width, got {describe(x_BLD)}.")
  if not jnp.issubdtype(x_BLD.dtype, jnp.floating):
    raise ValueError(f"x_BLD must be floating-point, got {describe(x_BLD)}.")
  if not isinstance(deterministic, bool):
    raise ValueError(
      "deterministic must be a Python bool (under nn.remat with static_argnums=(3,), "
      f"by position), got a {type(deterministic).__name__}."
    )
  if mask_BL is None:
    return jnp.ones((B, L), bool)
  if getattr(mask_BL, "shape", None) != (B, L) or mask_BL.dtype != bool:
    raise ValueError(
      f"mask_BL must be bool of shape ({B}, {L}), as x_BLD of shape {x_BLD.shape} "
      f"needs, got {describe(mask_BL)}."
    )
  return jnp.asarray(mask_BL)


class LinearStack(nn.Module):
  """n linear layers D -> D with ReLU between (2404.15045 Eq. 3, 9, Table 7).

  Matrices start Xavier-uniform; of biases only the head layer's follow `config.init`,
  as in the papers' code, and the merge layer's start at zero.
  """

  config: MoeConfig
  gain: float  # of the Xavier-uniform initialisation
  bias_init: str  # one of `config.INITS`
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x_BLD: jax.Array) -> jax.Array:
    D = x_BLD.shape[-1]
    init = nn.initializers.variance_scaling(self.gain**2, "fan_avg", "uniform")
    for i in range(self.config.num_linear):
      x_BLD = jax.nn.relu(x_BLD) if i else x_BLD
      w_DP = self.param(f"w_{i}_DP", init, (D, D), jnp.float32)
      x_BLD = x_BLD @ w_DP.astype(self.dtype)
      if self.config.use_bias or self.config.linear_bias:
        b_P = self.param(f"b_{i}_P", bias_init(self.bias_init, D), (D,), jnp.float32)
        x_BLD += b_P.astype(self.dtype)[None, None]
    return x_BLD


class Router(nn.Module):
  """Scores of every sub-token for every expert, float32 (B, S, E).

  One expert leaves nothing to choose, and no parameters.
  """

  config: MoeConfig

  @nn.compact
  def __call__(self, x_BSM: jax.Array) -> jax.Array:
    cfg = self.config
    M, E, R = x_BSM.shape[-1], cfg.num_experts, cfg.router_dim
    init = nn.initializers.lecun_normal()
    if cfg.init == "torch":
      init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
    x_BSM = x_BSM.astype(jnp.float32)
    if E == 1:
      finite_BS1 = jnp.isfinite(x_BSM).all(axis=-1, keepdims=True)
      return jnp.where(finite_BS1, jnp.float32(0), jnp.nan)
    if cfg.router == "linear":
      return routing.linear_logits(x_BSM, self._param("w_ME", init, (M, E)))
    w_MR = self._param("w_MR", init, (M, R))
    embed_init = nn.initializers.orthogonal(0.32)
    if cfg.router == "projected":
      norm = cfg.router_norm

      def kept_init(*args):
        embed_ER = embed_init(*args)
        return routing.rescale(embed_ER, norm) if norm else embed_ER

      embed_ER = self._param("embed_ER", kept_init, (E, R))
      return routing.projected_logits(x_BSM, w_MR, embed_ER, norm)
    embed_ER = self._param("embed_ER", embed_init, (E, R))
    log_init = nn.initializers.constant(jnp.log(cfg.router_temperature))
    log_temperature = self._param("log_temperature", log_init, ())
    return routing.cosine_logits(x_BSM, w_MR, embed_ER, log_temperature)

  def _param(self, name: str, init, shape: tuple[int, ...]) -> jax.Array:
    # Whatever the other parameters were cast to.
    return self.param(name, init, shape, jnp.float32).astype(jnp.float32)
