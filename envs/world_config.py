"""How a world is made from a log."""

from dataclasses import dataclass

from envs.errors import ConfigurationError
from envs.modifiers import Modifier


@dataclass(frozen=True, kw_only=True)
class WorldConfig:
    """How a world is made from a log."""

    days: int = 30
    """Horizon of a life in days."""
    held_back_share: float = 0.2
    """Share of the catalogue that is withheld from policies and born during the run."""
    births_per_day: float = 0.0
    """Mean number of new items that are drawn from the fitted items and born on each day of the run."""
    retire_after_days: float | None = None
    """Days after its birth at which an item is retired; None for never. Items that are older when the run begins are
    retired at seeded moments of its first so many days, as in a catalogue that has always been renewed at this pace."""
    drawn_users: int = 0
    """Number of simulated users drawn from the fitted population; 0 simulates the log's users themselves."""
    keep_histories: bool = True
    """Whether the histories of drawn users are rows of the policies' log (of no more than 50,000 users they can be). False:
    policies learn from the log's own users alone, and of drawn ones they see what is observed in each request."""
    arrivals_per_day: float = 0.0
    """Mean number of new users, without any history, who arrive on each day of the run."""
    modifiers: tuple[Modifier, ...] = ()
    """Hidden changes of the world over the days of the run: seasons, shocks, drift."""
    popular_click_rate: float = 0.2
    """Click rate of a slate of the ten most popular items on day 0; sets the outside option where the user model does not
    know it (assumed: a log without exposures cannot tell it)."""
    fresh_days: float = 14.0
    """Items younger than this many days count as fresh."""
    exclude_seen: bool | None = None
    """Whether items that a user has consumed are left out of its candidates; None leaves them out where the log has no
    repeats."""
    seed: int = 0
    """Decides which items are withheld, what is born and retired when, who is drawn and who arrives when."""

    def __post_init__(self) -> None:
        if self.days < 1:
            raise ConfigurationError(f"days is {self.days}; a run needs at least 1.")
        if not 0 <= self.held_back_share < 1:
            raise ConfigurationError(f"held_back_share is {self.held_back_share}; it must lie in [0, 1).")
        if not 0 < self.popular_click_rate < 1:
            raise ConfigurationError(f"popular_click_rate is {self.popular_click_rate}; it must lie in (0, 1).")
        if self.fresh_days <= 0:
            raise ConfigurationError(f"fresh_days is {self.fresh_days}; it must be positive.")
        for name in ("births_per_day", "drawn_users", "arrivals_per_day"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigurationError(f"{name} is {getattr(self, name)}; it must be a number from 0 upwards.")
        if self.retire_after_days is not None and not self.retire_after_days > 0:
            raise ConfigurationError(f"retire_after_days is {self.retire_after_days}; it must be positive.")
