"""The judge: any sampler, from y alone, against posteriors that are known exactly."""

from benchmarks.judge.command import Verdicts, judge
from benchmarks.judge.problems import Problem, read_problem
from benchmarks.judge.running import FromFunction

__all__ = ["FromFunction", "Problem", "Verdicts", "judge", "read_problem"]
