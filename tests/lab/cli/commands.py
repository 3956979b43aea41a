"""Commands that several tests give."""

SWEEP = [
    "sweep", "--contender", "blockskip", "--contender", "sdpa", "--q-len", "64", "--window", "16", "--window", "causal",
    "--q-heads", "2", "--kv-heads", "1", "--head-dim", "16", "--budget", "0.03", "--device", "cpu",
]  # fmt: skip
