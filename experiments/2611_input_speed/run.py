"""Tokens that a core delivers, from text and prepared, against what a step consumes.

  PYTHONPATH=. python experiments/2611_input_speed/run.py --data DIR

reads DIR/english/{train,valid}.txt and DIR/multilingual/LANGUAGE.{train,valid}.txt,
appends rows to results/input_speed.jsonl and prints them. Rows that are there are kept.
Prepared folders and vocabularies go to DIR/prepared.

Times are seconds of CPU, of all threads of the process together. On one core that does
nothing else they are seconds; on a busy one they are still the work of one core.
"""

import argparse
import collections
import dataclasses
import json
import os
import pathlib
import shutil
import time

import jax
import tiktoken
import tiktoken.registry
from tiktoken_ext import openai_public

from configs import tiny
from configs.paper1 import english
from configs.paper2 import redpajama
from mhmoe_jax.data import tokenizer
from mhmoe_jax.data.preparing import prepare
from mhmoe_jax.data.streams import make_train_feed
from mhmoe_jax.data.windows import iterate_texts
from mhmoe_jax.plan.compile import compile_step
from mhmoe_jax.train.config import resolve
from mhmoe_jax.train.optimizer import make_optimizer
from mhmoe_jax.train.state import make_state
from mhmoe_jax.train.step import make_train_step

RESULTS = pathlib.Path(__file__).parent / "results" / "input_speed.jsonl"
VOCABULARIES = ("bytes", "sentencepiece", "cl100k")
PIECES = 32_000
BATCH = 32  # rows of 2,048 tokens
SECONDS = 5.0  # of CPU, for each row
WARM = 20  # batches before, in which every language is drawn and its buffer filled
# What trains on a host of four v5p chips.
CONSUMERS = {
  "paper 1, dense": lambda: english.get_config("dense,logged"),
  "paper 1, mhmoe_8": lambda: english.get_config("mhmoe_8,logged"),
  "paper 2, mhmoe_h3": lambda: redpajama.get_config("mhmoe_h3"),
}


def make_data(folder: pathlib.Path, text: str, vocabulary: str, streams: int):
  """The config of a text, English or a mixture of languages."""
  config = tiny.get_config().data
  config.source = "text"
  config.vocabulary = vocabulary
  if vocabulary == "sentencepiece":
    config.vocabulary = str(folder / "prepared" / f"{text}.model")
  config.sequence_length = 2048
  config.shuffle_buffer = 16  # in each stream of each language: soon full
  config.streams = streams
  if text == "english":
    config.train, config.valid = (
      str(folder / text / f"{split}.txt") for split in ("train", "valid")
    )
  else:
    config.mixture = {
      path.name.split(".")[0]: {
        "train": str(path),
        "valid": str(path).replace(".train.", ".valid."),
      }
      for path in sorted((folder / text).glob("*.train.txt"))
    }
  return config


def resolved(config):
  whole = tiny.get_config()
  whole.data = config
  return resolve(whole).data


def train_vocabulary(folder: pathlib.Path, text: str) -> None:
  """A SentencePiece model of at most a few megabytes of each file."""
  path = folder / "prepared" / f"{text}.model"
  if path.exists():
    return
  path.parent.mkdir(exist_ok=True)
  size = 4_000_000 if text == "english" else 300_000  # characters of a text
  cfg = resolved(make_data(folder, text, "bytes", 1))
  texts = []
  for member in cfg.members().values() if cfg.mixture else [cfg]:
    taken = 0
    for piece in iterate_texts(member, "train"):
      texts.append(piece)
      taken += len(piece)
      if taken > size:
        break
  tokenizer.train_sentencepiece(texts, PIECES, str(path))


def stand_in_for_cl100k(folder: pathlib.Path) -> str:
  """Registers, without tiktoken's file, an encoding that works as hard.

  The same expression cuts the text; a piece that is known is one token, others are
  merged from their bytes. Known are the 100,000 most frequent pieces' beginnings in
  these texts in place of those of the web.
  """
  if os.environ.get("TIKTOKEN_CACHE_DIR"):
    return "cl100k"
  load, openai_public.load_tiktoken_bpe = openai_public.load_tiktoken_bpe, None
  openai_public.load_tiktoken_bpe = lambda *args, **kwargs: {}
  made = openai_public.cl100k_base()
  openai_public.load_tiktoken_bpe = load
  import regex

  counts = collections.Counter()
  for text in ("english", "multilingual"):
    cfg = resolved(make_data(folder, text, "bytes", 1))
    for member in cfg.members().values() if cfg.mixture else [cfg]:
      piece = next(iterate_texts(member, "train"))
      counts.update(regex.findall(made["pat_str"], piece))
  ranks = {bytes([byte]): byte for byte in range(256)}
  for word, _ in counts.most_common():
    word = word.encode()
    for end in range(2, len(word) + 1):
      ranks.setdefault(word[:end], len(ranks))
    if len(ranks) > 100_000:
      break
  ranks = {word: rank for word, rank in ranks.items() if rank < 100_256}
  made["mergeable_ranks"] = ranks
  del made["name"]
  tiktoken.registry.ENCODINGS["cl100k_base"] = tiktoken.Encoding("cl100k_base", **made)
  return "a stand-in for cl100k"


def measure_feed(data) -> dict:
  """Tokens per second of CPU, once the shuffle buffers are full."""
  feed = make_train_feed(data, BATCH)
  for _ in range(WARM):
    next(feed)
  start, tokens = time.process_time(), 0
  while time.process_time() < start + SECONDS:
    tokens += int(next(feed)["weights"].sum())
  return {"tokens_per_second": tokens / (time.process_time() - start)}


def measure_preparing(data, folder: pathlib.Path) -> dict:
  """Tokens per second of CPU of `mhmoe prepare`, and what it writes."""
  shutil.rmtree(folder, ignore_errors=True)  # Begun, and not measured.
  began, tokens = time.process_time(), []
  prepare(data, str(folder), 4, lambda progress: tokens.append(progress.tokens))
  gone = time.process_time() - began
  size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
  texts = [data, *data.members().values()][bool(data.mixture) :]
  read = sum(os.path.getsize(p) for text in texts for p in (text.train, text.valid))
  return {
    "tokens_per_second": sum(tokens) / gone,
    "bytes_per_token": size / sum(tokens),
    "text_bytes_per_token": read / sum(tokens),
  }


def measure_step() -> dict:
  """Tokens per second of CPU that a step of configs/tiny.py consumes."""
  cfg = resolve(tiny.get_config())
  optimizer = make_optimizer(cfg.optimizer, cfg.train.num_steps)
  state = make_state(cfg.task, optimizer, 0)
  step = jax.jit(make_train_step(cfg.task, optimizer, 1))
  batch = next(make_train_feed(cfg.data, cfg.train.batch_size))
  state, _ = jax.block_until_ready(step(state, batch))
  start, tokens = time.process_time(), 0
  while time.process_time() < start + SECONDS:
    state, _ = jax.block_until_ready(step(state, batch))
    tokens += batch["weights"].size
  return {"tokens_per_second": tokens / (time.process_time() - start)}


def plan(make_config) -> dict:
  """Tokens per second of four v5p chips at most: of the compiler's lower bound."""
  config = make_config()
  config.train.batch_size = 32
  config.train.accumulate_steps = 1
  found = compile_step(resolve(config), "v5p:2x2x1", quick=True)
  tokens = config.train.batch_size * config.data.sequence_length
  return {
    "tokens_per_second": tokens / found.compute_seconds,
    "fits": found.fits,
    "sequence_length": config.data.sequence_length,
  }


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument("--data", type=pathlib.Path, required=True)
  folder = parser.parse_args().data
  rows = {}
  if RESULTS.exists():
    for line in RESULTS.read_text().splitlines():
      row = json.loads(line)
      rows[row["what"]] = row

  def add(what: str, measure) -> None:
    if what not in rows:
      rows[what] = {"what": what, **measure()}
      with RESULTS.open("a") as file:
        file.write(json.dumps(rows[what]) + "\n")
    print(json.dumps(rows[what]), flush=True)

  names = dict.fromkeys(VOCABULARIES)
  names["cl100k"] = stand_in_for_cl100k(folder)
  add("configs/tiny.py, a step on one core", measure_step)
  for text in ("english", "multilingual"):
    train_vocabulary(folder, text)
    for vocabulary in VOCABULARIES:
      where = folder / "prepared" / f"{text}_{vocabulary}"
      label = f"{text}, {names[vocabulary] or vocabulary}"
      one, four = (
        resolved(make_data(folder, text, vocabulary, streams)) for streams in (1, 4)
      )
      # Of four streams, because some languages are short.
      add(f"prepare {label}", lambda four=four, at=where: measure_preparing(four, at))
      for data, streams in ((one, 1), (four, 4)):
        add(f"live {label}, {streams}", lambda data=data: measure_feed(data))
      ready = dataclasses.replace(four, prepared=str(where))
      add(f"prepared {label}, 4", lambda ready=ready: measure_feed(ready))
      if text == "english":  # Long enough for spans of 256 KiB, however many streams.
        ready = dataclasses.replace(one, prepared=str(where))
        add(f"prepared {label}, 1", lambda ready=ready: measure_feed(ready))
  for name, make_config in CONSUMERS.items():
    add(f"four v5p chips, {name}", lambda make_config=make_config: plan(make_config))


if __name__ == "__main__":
  main()
