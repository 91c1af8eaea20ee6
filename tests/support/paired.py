"""The gain of one method over others, paired over seeds or folds."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import t as student


def gains(wide: pd.DataFrame, method: str) -> pd.DataFrame:
    """A row a rival: the mean of `method` minus the rival, and half of its 95 % t interval.

    Args:
        wide: a row a seed (or fold), a column a method.
    """
    rows = []
    for rival in wide.drop(columns=method):
        gain = (wide[method] - wide[rival]).dropna()
        half = student.ppf(0.975, len(gain) - 1) * gain.std() / np.sqrt(len(gain))
        rows.append({"method": f"{method} − {rival}", "gain": gain.mean(), "half": half, "n": len(gain)})
    return pd.DataFrame(rows)


def told(wide: pd.DataFrame, method: str, prefix: str = "") -> None:
    """Print `gains`."""
    for row in gains(wide, method).itertuples():
        print(f"{prefix}{row.method}: {row.gain:+.3f} ± {row.half:.3f} (n = {row.n})")
