"""Two ways to double."""

from skiplab.contenders.base import REGISTRY, Contender

REGISTRY.add(Contender("blockskip", "doubling", "our doubling", lambda workload, inputs: lambda x: 2 * x).of("toy"))
REGISTRY.add(Contender("twice", "adding", "x + x", lambda workload, inputs: lambda x: x + x).of("toy"))
REGISTRY.add(Contender("wrong", "tripling", "3 * x", lambda workload, inputs: lambda x: 3 * x).of("toy"))
