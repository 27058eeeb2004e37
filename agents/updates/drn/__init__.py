"""DRN, an agent that updates itself: small steps after each request, large ones by replay (Zheng et al. 2018).

`agent.py` is the agent, `learner.py` holds its weights and changes them, `network.py` is the Q-network, `interleave.py` lets two
networks serve one slate, `activeness.py` scores how active users are, `memory.py` keeps what was served. docs/rl.md tells it.
"""

from agents.updates.drn.agent import DRNAgent
from agents.updates.drn.options import DRNOptions

__all__ = ["DRNAgent", "DRNOptions"]
