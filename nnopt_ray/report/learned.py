"""What the search learned: which values the objective follows, and how."""

from __future__ import annotations

from nnopt_ray.evaluate import importance
from nnopt_ray.evaluate.importance import MIDDLE, Group, Importance, Share
from nnopt_ray.report import words
from nnopt_ray.report.blocks import Block, Cell, Fold, Head, Plot, Row, Section, Table, Text
from nnopt_ray.report.facts import Facts
from nnopt_ray.report.figure import axis, label, layout
from nnopt_ray.report.slices import conditions, slices
from nnopt_ray.report.validation_curve import validation_curve

OPEN = 8  # slices that are not folded away: the most important
MOST = 60  # slices at all
WEAK = 0.5  # R² below which the numbers are rough


def learned(facts: Facts) -> Section | None:
    """None where nothing was searched, or no two trials can be compared."""
    if not facts.experiment.is_search or len(facts.rows) < 2:
        return None
    found = importance.read(facts.evaluated.get("importance"))
    first = found[0] if found else None
    alone = validation_curve(facts)
    blocks: list[Block] = [] if alone is None else [alone]
    if first is not None:
        blocks += [Text(sentence) for sentence in sentences(first)]
        blocks += _pictured(first)
    blocks += [_table(each) for each in found if any(group.shares for group in each.groups)]
    blocks += _slices(facts, first)
    return Section("What the search learned", tuple(blocks)) if blocks else None


# --- words ------------------------------------------------------------------------------------------


def sentences(found: Importance) -> list[str]:
    """What can be said of the importances, and on what it rests; why nothing can."""
    if found.silent:
        return [f"How important each value is cannot be told. {words.capital(found.silent)}"]
    whole = next((group for group in found.groups if not group.under), None)
    said = []
    if whole is not None and whole.shares:
        said.append(_ranked(whole))
    elif whole is not None:
        why = f": {whole.silent}" if whole.silent else ""
        said.append(f"How important each value is cannot be told from {words.plural(whole.trials, 'trial')}{why}.")
    for group in found.groups:
        if group.under and group.shares:
            own = [share for share in group.shares if share.told]
            most = f"{_name(own[0])} ({_percent(own[0].share)})" if own else "no value stands out"
            among = f"Among the {group.trials} trials with {conditions(group.under)}"
            said.append(f"{among}, most differences come from {most}." if own else f"{among} {most}.")
    quiet = [group for group in found.groups if group.under and not group.shares and group.trials]
    if quiet:
        few = words.listed([f"{conditions(group.under)} ({group.trials})" for group in quiet])
        said.append(
            f"Of trials with {few} there are too few, or too little is explained, to tell their own values apart."
        )
    return [" ".join(said), _basis(found, whole)]


def _ranked(group: Group) -> str:
    told = [share for share in group.shares if share.told]
    rest = [share for share in group.shares if not share.told]
    if len(group.shares) == 1:
        return f"Only {_name(group.shares[0])} differs between the trials, so there is nothing to rank."
    said = []
    if told:
        first = told[0]
        said.append(
            f"Of the differences between trials {_percent(first.share)} come from {_name(first)} "
            f"({_percent(first.low)} to {_percent(first.high)})"
        )
        others = [f"{_percent(share.share)} from {_name(share)}" for share in told[1:4]]
        said[-1] += f", {words.listed(others)}." if others else "."
    if rest:
        names = words.listed([_name(share) for share in rest[:6]])
        more = f" and {len(rest) - 6} others" if len(rest) > 6 else ""
        verb, matter = ("gets", "it matters") if len(rest) == 1 else ("get", "they matter")
        said.append(f"{names}{more} {verb} no more than chance gives: no sign that {matter} here.")
    left = 1 - sum(share.share for share in group.shares)
    if group.pairs and left > 0.05:
        pair = group.pairs[0]
        said.append(
            f"{_percent(left)} are interplay, most of it between {_short(pair.one)} and {_short(pair.other)} "
            f"({_percent(pair.share)})."
        )
    return " ".join(said)


def _basis(found: Importance, whole: Group | None) -> str:
    """How many trials, after how many epochs, and how far the forest is to be believed."""
    said = [f"This rests on {words.plural(len(found.values), 'trial')}"]
    if found.epochs:
        after = words.plural(found.epochs, "epoch")
        said[0] += (
            f", compared by their best {words.metric_name(found.metric)} within {after}: what the trial that was "
            "stopped first had done, as others had more time to become good"
        )
    said[0] += "."
    if found.failed:
        said.append(f"{words.plural(found.failed, 'failed trial is', 'failed trials are')} left out.")
    if found.without:
        said.append(f"{words.plural(found.without, 'trial has', 'trials have')} no value that can be compared.")
    if found.clipped and found.limit is not None:
        far = words.plural(found.clipped, "trial")
        said.append(f"{words.capital(far)} far worse than the rest count as {words.score(found.metric, found.limit)}.")
    if whole is not None and whole.shares:
        trust = " The order says more than the numbers." if whole.explained < WEAK else ""
        said.append(f"The forest explains {_percent(whole.explained)} of trials it has not seen (R²).{trust}")
    return " ".join(said)


def _percent(share: float) -> str:
    return f"{100 * share:.0f}{words.NBSP}%" if share >= 0.005 or share <= 0 else f"under 1{words.NBSP}%"


def _name(share: Share) -> str:
    return f"{share.path} (of whichever option)" if share.pooled else share.path


def _short(branch: str) -> str:
    return words.path_parts(branch)[1]


# --- importance -------------------------------------------------------------------------------------


def _pictured(found: Importance) -> list[Block]:
    whole = next((group for group in found.groups if not group.under), None)
    if whole is None or len(whole.shares) < 2:
        return []
    shares = whole.shares[:12][::-1]
    names = [label(_name(share), 44) for share in shares]
    figure = {
        "data": [
            {
                "type": "bar",
                "orientation": "h",
                "name": name,
                "y": [names[i] for i, share in enumerate(shares) if share.told is told],
                "x": [share.share for share in shares if share.told is told],
                "error_x": {
                    "type": "data",
                    "symmetric": False,
                    "array": [share.high - share.share for share in shares if share.told is told],
                    "arrayminus": [max(0.0, share.share - share.low) for share in shares if share.told is told],
                    "color": "--muted",
                    "thickness": 1.5,
                },
                "hovertemplate": "%{y}: %{x:.1%}<extra></extra>",
                "marker": {"color": colour},
            }
            for told, name, colour in (
                (True, "more than chance", "--winner"),
                (False, "no more than chance", "--faint"),
            )
            if any(share.told is told for share in shares)
        ],
        "layout": layout(
            axis("share of the differences between trials", tickformat=".0%", rangemode="tozero"),
            axis("", categoryorder="array", categoryarray=names, showgrid=False),
            hovermode="closest",
            showlegend=True,
            bargap=0.35,
        ),
    }
    caption = (
        "Functional ANOVA on a random forest: the part of the objective's variance over the whole space that each "
        f"value makes alone. Whiskers: the middle {_percent(MIDDLE)} of the trees, each of which saw other trials."
    )
    height = 130 + 34 * len(shares)
    return [Plot("importance", "Which values matter", caption, figure, height=height)]


def _table(found: Importance) -> Table:
    rows = tuple(
        (
            Cell(_name(share)),
            Cell(conditions(group.under) or "all", tone="" if group.under else "muted"),
            Cell(words.count(group.trials), group.trials),
            Cell(_percent(share.share), share.share, tone="best" if share.told else ""),
            Cell(f"{_percent(share.low)} to {_percent(share.high)}"),
            Cell("yes" if share.told else "no", tone="good" if share.told else "muted"),
            Cell(f"{group.explained:.2f}", group.explained),
        )
        for group in found.groups
        for share in group.shares
    )
    return Table(
        title=f"Importance for {words.metric_name(found.metric)}",
        caption="A value inside an option is judged among the trials that took it. Values of the same name in several "
        "options are also taken together, by their place between the ends of their own ranges.",
        heads=(
            Head("value"),
            Head("among trials with"),
            Head("trials", number=True),
            Head("importance", number=True, hint="share of the forest's variance, mean over its trees"),
            Head(f"middle {_percent(MIDDLE)} of the trees", number=True),
            Head("more than chance", hint="than the best of shuffled copies of all values"),
            Head("R²", number=True, hint="of trials that a tree had not seen"),
        ),
        rows=rows,
        sortable=True,
    )


# --- slices -----------------------------------------------------------------------------------------


def _slices(facts: Facts, found: Importance | None) -> list[Block]:
    made = slices(facts, found)
    if not made:
        return []
    share: dict[str, float] = {}
    for group in found.groups if found is not None else ():
        for each in group.shares:
            share[each.branch] = max(share.get(each.branch, 0.0), each.share)
    ranked = sorted(made, key=lambda pair: -share.get(pair[0], 0.0))[:MOST]
    plots = [plot for _, plot in ranked]
    line = ""
    if any(group.shares for group in (found.groups if found is not None else ())):
        line = " The line is the forest's mean over all other values, with the middle of its trees beside it."
    blocks: list[Block] = [
        Text(
            "Each searched value against the objective, a point a trial; the stronger its colour, the later it was "
            f"tried.{line}",
            "muted",
        ),
        Row(tuple(plots[:OPEN])),
    ]
    if len(plots) > OPEN:
        blocks.append(Fold(f"{len(plots) - OPEN} more values", (Row(tuple(plots[OPEN:])),)))
    return blocks
