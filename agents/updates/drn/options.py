"""Settings of DRN; alpha, beta, gamma and those of the activeness are the paper's."""

from dataclasses import dataclass, field

from agents.rl.candidate_agent import CandidateOptions
from agents.rl.networks import BLOCK_ROWS
from envs.errors import ConfigurationError
from envs.measures import RewardWeights


@dataclass(frozen=True, kw_only=True)
class DRNOptions(CandidateOptions):
    """Settings of DRN; the defaults suit some 40,000 requests."""

    num_envs: int = 256
    """Users simulated side by side; one vector step of them is one minor update."""
    gamma: float = 0.4
    """Discount per request."""
    prior: float = 0.05
    """Value, before training, of a deviation of the first ranker's score within a request, in units of the reward."""
    alpha: float = 0.1
    """Explore coefficient: the rival's weights lie within this share of the present ones."""
    eta: float = 0.05
    """Exploit coefficient: share of the way to the rival's weights that a minor update goes where the rival won."""
    steepness: float = 3.0
    """An interleaved slot takes the item of rank r with a chance in proportion to r to the power of minus this."""
    major_every: int = 1_000
    """Answered requests between two major updates."""
    gradient_steps: int = 16
    """Gradient steps of a major update."""
    minibatch: int = 256
    """Requests of one gradient step, each with all its slots."""
    learning_rate: float = 1e-3
    """Adam's step size."""
    remembered: int = 20_000
    """Requests that the memory keeps (the newest); they are in the agent's file."""
    beta: float = 0.05
    """Weight of a user's activeness in the reward."""
    initial_activeness: float = 0.5
    """S0: of a user who is seen for the first time."""
    activeness_gain: float = 0.32
    """Sa: what a return adds."""
    hazard_per_day: float = 1.0368
    """λ0: rate at which activeness decays between requests, 1.2e-5 a second."""
    absent_days: float = 7.0
    """Days without another request after which a user is taken to have left for good; training is told who leaves."""
    explores_when_serving: bool = False
    """Whether `act` lets the rival take part in slates, so that `update` makes minor updates too; else it shows what is best."""
    reward_weights: RewardWeights = field(default_factory=RewardWeights)
    """Of the reward that `update` makes of events, which tell only what was consumed; in training the reward is told."""
    iteration: int = 2_000
    """Requests between two points of the learning curve."""

    def __post_init__(self) -> None:
        if isinstance(self.reward_weights, dict):  # as the agent's file has them
            object.__setattr__(self, "reward_weights", RewardWeights(**self.reward_weights))
        for name in ("num_envs", "major_every", "gradient_steps", "minibatch", "iteration"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        for name in ("alpha", "eta", "gamma", "initial_activeness", "activeness_gain"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigurationError(f"{name} is {getattr(self, name)}; it must lie between 0 and 1.")
        for name in ("hazard_per_day", "absent_days", "steepness", "beta"):
            if not getattr(self, name) >= 0:
                raise ConfigurationError(f"{name} is {getattr(self, name)}; it must not be negative.")
        least = max(self.num_envs, BLOCK_ROWS)
        if self.remembered < least:
            raise ConfigurationError(f"remembered is {self.remembered}; it must be at least {least} requests.")
