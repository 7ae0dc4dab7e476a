"""The Multi-Head Mixture-of-Experts layer (2404.15045 section 3, 2411.16205 section 2).

head layer -> split into sub-tokens -> router -> experts -> merge -> merge layer. The
router decides, the dispatcher moves, the experts compute; each is a pure function in a
file of its own, and this file only strings them together.
"""

from typing import NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp

from mhmoe_jax.moe import losses, routing, telemetry
from mhmoe_jax.moe.config import MoeConfig
from mhmoe_jax.moe.dropout import draw_seeds
from mhmoe_jax.moe.experts import DenseFfn, ExpertFfn, bias_init
from mhmoe_jax.moe.heads import merge_heads, split_heads
from mhmoe_jax.moe.transport import apply_experts
from mhmoe_jax.sharding import constrain


class MoeAux(NamedTuple):
  """What the layer returns beside its output; under `nn.scan` a leading N."""

  balance_loss: jax.Array  # scalar, 1.0 when the load is even
  router_z_loss: jax.Array  # scalar
  stats: telemetry.RouterStats
  choices: telemetry.Choices | None  # of every sub-token, if they were asked for


class MultiHeadMoe(nn.Module):
  """Multi-Head MoE on tokens (B, L, D).

  Attributes:
    config: see `MoeConfig`.
    dtype: of the computation; parameters, router and losses are float32.
    trace: return the `Choices` of every sub-token, too.
  """

  config: MoeConfig
  dtype: jnp.dtype = jnp.float32
  trace: bool = False

  @nn.compact
  def __call__(
    self,
    x_BLD: jax.Array,
    mask_BL: jax.Array | None = None,
    *,
    deterministic: bool = True,
  ) -> tuple[jax.Array, MoeAux]:
    """Applies the layer.

    Args:
      x_BLD: tokens; `config.num_heads` must divide D.
      mask_BL: bool, False on padding, whose sub-tokens are not routed or counted and
        get only the merge layer's bias (and the residual, and the shared expert).
        The authors' code routes and counts them.
        None: all real.
      deterministic: False in training, which selects `capacity_factor` instead of
        `eval_capacity_factor` in dispatches that drop, and switches on
        `expert_dropout`, whose key is the rng "dropout".

    Returns:
      The output (B, L, D) in `dtype`, without the block's residual, and `MoeAux`.
    """
    cfg = self.config
    B, L, _ = x_BLD.shape
    if mask_BL is None:
      mask_BL = jnp.ones((B, L), bool)

    x_BLD = x_BLD.astype(self.dtype)
    y_BLD = x_BLD
    if cfg.use_head_layer:
      y_BLD = LinearStack(cfg, 0.5**0.5, cfg.init, self.dtype, name="head")(y_BLD)
    x_BSM = constrain(split_heads(y_BLD, cfg.num_heads), "BSM")
    mask_BS = jnp.repeat(mask_BL, cfg.num_heads, axis=1)

    logits_BSE = Router(cfg, name="router")(x_BSM)
    route = routing.choose(logits_BSE, mask_BS, cfg.top_k, cfg.renormalize)
    weights = ExpertFfn(cfg, self.dtype, name="experts")(x_BSM.shape[-1])
    factor = cfg.eval_capacity_factor if deterministic else cfg.capacity_factor
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
    )


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
      w_DP = self.param(f"w_{i}_DP", init, (D, D))
      x_BLD = x_BLD @ w_DP.astype(self.dtype)
      if self.config.use_bias or self.config.linear_bias:
        b_P = self.param(f"b_{i}_P", bias_init(self.bias_init, D), (D,))
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
    if E == 1:
      return jnp.zeros((*x_BSM.shape[:2], 1))
    x_BSM = x_BSM.astype(jnp.float32)
    if cfg.router == "linear":
      return routing.linear_logits(x_BSM, self.param("w_ME", init, (M, E)))
    w_MR = self.param("w_MR", init, (M, R))
    embed_init = nn.initializers.orthogonal(0.32)
    if cfg.router == "projected":
      norm = cfg.router_norm

      def kept_init(*args):
        embed_ER = embed_init(*args)
        return routing.rescale(embed_ER, norm) if norm else embed_ER

      embed_ER = self.param("embed_ER", kept_init, (E, R))
      return routing.projected_logits(x_BSM, w_MR, embed_ER, norm)
    embed_ER = self.param("embed_ER", embed_init, (E, R))
    log_init = nn.initializers.constant(jnp.log(cfg.router_temperature))
    log_temperature = self.param("log_temperature", log_init, ())
    return routing.cosine_logits(x_BSM, w_MR, embed_ER, log_temperature)
