import subprocess
import sys

import pytest

from agents import Agent, agent_names, resolve_agent
from envs.errors import AgentError

GOOD = """
from abc import abstractmethod
from dataclasses import dataclass
import numpy as np
from agents import Agent

@dataclass
class Settings:
    rule: str = "mine"

class Mine(Agent):
    def act(self, observation):
        return np.argsort(observation.candidates.age, axis=1)[:, : self.slate_size]

class NoAct(Agent):
    pass

class Lacking(Mine):
    @abstractmethod
    def rank(self):
        ...

class NoAgent:
    def act(self, observation):
        return None

NUMBER = 3
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(GOOD)
    return path


def test_known_names_have_the_names_that_they_go_by():
    for name in agent_names():
        if name not in ("ppo", "dqn", "sb3_ppo") and ":" not in name and not name.startswith("ppo_"):
            assert resolve_agent(name).name == name
            assert resolve_agent(name).is_oracle == name.startswith("oracle")


def test_a_class_in_a_file(file, observe):
    kind = resolve_agent(f"{file}:Mine")
    assert issubclass(kind, Agent)
    assert kind(slate_size=3).act(observe(2, 10)).shape == (2, 3)


def test_two_files_of_one_name_do_not_mix(file, tmp_path):
    other = tmp_path / "sub" / "mine.py"
    other.parent.mkdir()
    other.write_text(GOOD.replace("Mine(Agent)", "Theirs(Agent)").replace("Lacking(Mine)", "Lacking(Theirs)"))
    assert resolve_agent(f"{file}:Mine").__name__ == "Mine"
    assert resolve_agent(f"{other}:Theirs").__module__ != resolve_agent(f"{file}:Mine").__module__


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("populr", "did you mean 'popular'"),
        ("zzz", "known are random, popular"),
        ("{file}", "names no class"),
        ("{file}:", "names no class"),
        (":Mine", "names no class"),
        ("{folder}/absent.py:Mine", "absent.py' does not exist"),
        ("{folder}:Mine", "does not exist"),
        ("{file}:Nine", "no class 'Nine'; it has Settings, Mine"),
        ("{file}:NoAct", "lacks the method act"),
        ("{file}:Lacking", "lacks rank"),
        ("{file}:NoAgent", "not a subclass of agents.Agent"),
        ("{file}:NUMBER", "is a int, not a class"),
    ],
)
def test_what_is_wrong_is_named(file, tmp_path, spec, told):
    with pytest.raises(AgentError) as caught:
        resolve_agent(spec.format(file=file, folder=tmp_path))
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("import numpy\n\nimport nothing_of_this_name", "line 3: ModuleNotFoundError: No module named"),
        ("def broken(:\n", "line 1: SyntaxError"),
        ("x = 1\n1 / 0\n", "line 2: ZeroDivisionError: division by zero"),
        ("raise SystemExit(3)\n", "line 1: SystemExit"),
    ],
)
def test_a_file_that_fails_is_told_in_one_sentence(tmp_path, content, told):
    path = tmp_path / "broken.py"
    path.write_text(content)
    with pytest.raises(AgentError, match=r"broken\.py' fails when it is imported") as caught:
        resolve_agent(f"{path}:Mine")
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_text_file_is_refused(tmp_path):
    path = tmp_path / "agent.txt"
    path.write_text(GOOD)
    with pytest.raises(AgentError, match=r"must end in '\.py'"):
        resolve_agent(f"{path}:Mine")


def test_importing_agents_loads_neither_torch_nor_ray():
    code = "import sys, agents; sys.exit(any(name in sys.modules for name in ('torch', 'ray', 'stable_baselines3')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
