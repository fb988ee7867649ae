"""Writes co2.csv: weekly carbon dioxide in the air above Mauna Loa, 1958 to 2001, as statsmodels brings it.

    pip install statsmodels
    python jobs/make_co2.py [FILE]

2,284 weeks, 59 of them without a value. Source: Keeling and Whorf, Scripps Institution of Oceanography
(statsmodels.datasets.co2).
"""

from __future__ import annotations

import sys
from pathlib import Path


def main(place: Path) -> None:
    try:
        from statsmodels.datasets import co2
    except ModuleNotFoundError:
        sys.exit("the data come with statsmodels: pip install statsmodels")
    weeks = co2.load_pandas().data
    weeks.rename_axis("week").reset_index().to_csv(place, index=False)
    print(f"{len(weeks):,} weeks in {place}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "co2.csv"))
