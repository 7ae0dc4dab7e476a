"""Does an exported model get the same harness numbers through transformers?

  PYTHONPATH=. python experiments/2611_interop/harness.py RUN EXPORTED DATA --limit 100

needs the extra `eval`, torch, accelerate and transformers in one environment. EXPORTED
is an export of RUN, whose documents begin with token 0; DATA a folder of `mhmoe harness
--data`. Both models answer the same requests of the same tasks, ours by
`mhmoe_jax.evals.lm`, the other by lm-eval's own `HFLM` with the exported tokenizer.
"""

import argparse
import json

from mhmoe_jax.evals import judge

TASKS = ("arc_easy", "piqa", "copa")
LENGTH = 1024  # more than any request: the two cut contexts in their own ways


def main() -> None:
  """Prints each number of both, and the largest difference."""
  parser = argparse.ArgumentParser(description=__doc__)
  for name in ("run", "exported", "data"):
    parser.add_argument(name)
  parser.add_argument("--limit", type=int)
  args = parser.parse_args()
  harness = judge.load_harness(args.data)

  from lm_eval.models.huggingface import HFLM
  import transformers

  from mhmoe_jax import sharding
  from mhmoe_jax.checkpoints import restore
  from mhmoe_jax.evals.lm import RunLM

  class Begun(HFLM):
    """Sequences as in our training: token 0, then those of the exported tokenizer."""

    prefix_token_id = 0

    def tok_encode(self, string, *_, **__):
      return self.tokenizer.encode(string, add_special_tokens=False)

    def _loglikelihood_tokens(self, requests, **kwargs):
      begun = [
        (key, context if context[:1] == [0] else [0, *context], continuation)
        for key, context, continuation in requests
      ]
      return super()._loglikelihood_tokens(begun, **kwargs)

  cfg, params = restore.load_model(args.run)
  ours = RunLM(cfg, params, sharding.make_mesh(data=1), LENGTH)
  model = transformers.AutoModelForCausalLM.from_pretrained(args.exported)
  theirs = Begun(
    model.eval(),
    tokenizer=transformers.AutoTokenizer.from_pretrained(args.exported),
    device="cpu",
    batch_size=8,
    max_length=LENGTH,
  )
  found = []
  for lm in (ours, theirs):
    suite = harness.Suite(list(TASKS), args.data, args.limit)
    found.append(harness.scalars(suite.run(lm)))
  for name in sorted(found[0]):
    print(f"{name:30} {found[0][name]:.6f} {found[1][name]:.6f}")
  largest = max(abs(found[0][k] - found[1][k]) for k in found[0])
  print(json.dumps({"numbers": len(found[0]), "largest_difference": largest}))


if __name__ == "__main__":
  main()
