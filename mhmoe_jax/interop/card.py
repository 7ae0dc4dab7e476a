"""The README of an exported model: what the run knows of itself."""

from typing import Any

from mhmoe_jax.checkpoints.saved import StoredParams
from mhmoe_jax.plan import parity
from mhmoe_jax.train.config import RunConfig


def write_card(
  cfg: RunConfig, checkpoint: StoredParams, exported: dict[str, Any]
) -> str:
  """A model card in Markdown.

  Args:
    cfg: of the run.
    checkpoint: of the run.
    exported: the config.json beside the card.
  """
  kind = exported["model_type"]
  own, *rivals = parity.rivals(cfg)
  loss = checkpoint.about["loss"]
  measured = "not measured at this checkpoint"
  if loss is not None:
    measured = f"{loss:.4f} nats a token, on held-out text"
  tokens = checkpoint.step * cfg.train.batch_size * cfg.data.sequence_length
  library = "mhmoe_jax" if kind == "mhmoe" else "transformers"
  use = (
    "mhmoe import --from THIS_FOLDER --workdir runs/imported\n"
    'mhmoe sample --workdir runs/imported --prompt "..."'
  )
  rows = "\n".join(
    f"| {r.name} | {r.parameters.total:,} | {r.parameters.active:,} | {r.flops:,.0f} | "
    f"{r.parameter_ratio:.3f} | {r.flop_ratio:.3f} |"
    for r in (own, *rivals)
  )
  return f"""---
library_name: {library}
pipeline_tag: text-generation
tags: [mixture-of-experts, {kind}]
---

# {_name(cfg)}

Trained with mhmoe_jax; the layout of the files is that of `{kind}`.

| | |
|---|---|
| parameters | {own.parameters.total:,}, at most {own.parameters.active:,} for a token |
| work | {own.flops:,.0f} FLOPs a token, forward, at {cfg.data.sequence_length} tokens |
| data | {_data(cfg)} |
| vocabulary | {cfg.data.vocabulary} |
| trained | {checkpoint.step:,} steps, up to {tokens:,} tokens |
| loss | {measured} |

{_conditions(exported)}

## What it may be compared with

Models of the same depth and width, and the hidden widths at which they have as many
parameters, or do as much work. Ratios are to this model.

| model | parameters | active | FLOPs | parameters, ratio | FLOPs, ratio |
|---|---|---|---|---|---|
{rows}

## Use

```
{use}
```
"""


def _name(cfg: RunConfig) -> str:
  model, moe = cfg.model, cfg.model.layer
  size = f"{model.num_layers} layers of width {model.embed_dim}"
  if model.ffn == "dense":
    return f"Dense decoder, {size}"
  kind = "SMoE" if model.ffn == "smoe" else f"MH-MoE of {moe.num_heads} heads"
  return f"{kind}, {size}, {moe.num_experts} experts, top-{moe.top_k}"


def _data(cfg: RunConfig) -> str:
  data = cfg.data
  if data.mixture:
    return f"a mixture of {', '.join(data.mixture)}"
  named = [x for x in (data.name, data.train) if x]
  return " ".join([data.source, *named])


def _conditions(exported: dict[str, Any]) -> str:
  return (
    f"Every document began with token {exported['bos_token_id']} and ended with "
    f"{exported['eos_token_id']}: begin a prompt with the former."
  )
