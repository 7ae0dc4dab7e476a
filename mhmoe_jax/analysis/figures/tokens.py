"""Text as a head of a router sees it, as a piece of HTML for notebooks."""

import colorsys
import html

import numpy as np

from mhmoe_jax.analysis.traces.trace import Trace


def show_tokens(
  trace: Trace, layer: int, head: int, *, first: int = 0, count: int = 300
) -> str:
  """HTML in which each token has the colour of the expert that a head prefers.

  Pointing at a token tells the experts of all heads, likeliest first, and its loss.

  Args:
    trace: what happened.
    layer: n, in [0, N).
    head: in [0, H).
    first: place in the trace of the first token.
    count: tokens to show, fewer at the trace's end.

  Raises:
    ValueError: there is no such layer, head or token.
  """
  meta, total = trace.meta, len(trace.document_T)
  limits = {"layer": len(meta.layers), "head": meta.num_heads, "first": total}
  for (name, limit), value in zip(limits.items(), (layer, head, first), strict=True):
    if not 0 <= value < limit:
      raise ValueError(f"{name} must be in [0, {limit}), got {name}={value}.")
  colours = list_colours(meta.num_experts)
  pieces = []
  for t in range(first, min(first + count, total)):
    if t > first and trace.document_T[t] != trace.document_T[t - 1]:
      pieces.append("<hr>")
    experts_HK = trace.expert_TNHK[t, layer]
    choices = " | ".join(" ".join(map(str, experts_K)) for experts_K in experts_HK)
    note = f"experts {choices}, loss {trace.loss_T[t]:.2f}"
    text = html.escape(str(trace.text_T[t])).replace("\n", "⏎\n")
    colour = colours[experts_HK[head, 0]]
    pieces.append(f'<span title="{note}" style="background:{colour}">{text}</span>')
  used = np.unique(trace.expert_TNHK[first : first + count, layer, head, 0])
  key = " ".join(f'<span style="background:{colours[e]}"> {e} </span>' for e in used)
  return (
    '<div style="color:#111;background:#fff;padding:8px;white-space:pre-wrap;'
    'font:14px/1.6 monospace">'
    f"<b>block {meta.layers[layer]}, head {head}</b>  experts {key}\n\n"
    f"{''.join(pieces)}</div>"
  )


def list_colours(num_experts: int) -> list[str]:
  """Light colours, of which neighbours differ in hue by the golden angle."""
  hues = np.arange(num_experts) * 0.381966 % 1
  lights = 0.7 + 0.12 * (np.arange(num_experts) % 2)
  mixed = [colorsys.hls_to_rgb(h, l, 0.75) for h, l in zip(hues, lights, strict=True)]
  return ["#" + "".join(f"{round(255 * x):02x}" for x in rgb) for rgb in mixed]
