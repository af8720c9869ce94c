"""Names of columns: what their words say about the values."""

import re

# What one is named by: numbers of these are codes.
ENTITIES = frozenset(
    "user customer client member visitor buyer reader viewer item product sku movie book song artist track video news article "
    "document doc page url domain query keyword device campaign advertiser ad ads adgroup creative publisher site app store shop "
    "seller merchant author host driver restaurant hotel game channel".split()
)
_CODES = ENTITIES | frozenset(
    "id ids uid uuid guid hash key code index session cookie ip zip zipcode postal postcode category categories cate cat brand "
    "city country region state area district language lang gender sex hour day weekday dow week month os browser platform "
    "carrier model type kind class genre genres tag tags topic occupation profession segment group cluster slot position pos "
    "status flag level version order flight account".split()
)
_AMOUNTS = frozenset(
    "age price cost cpo cpc bid amount total sum score rate ratio share length len size width height weight distance duration "
    "seconds minutes hours days weeks months years times views clicks impressions visits sessions orders purchases sales balance "
    "income gain loss salary revenue budget value temperature humidity percent pct lat lon latitude longitude counts rating stars "
    "points quantity qty likes comments followers".split()
)
# Said of amounts alone, wherever they stand.
_AGGREGATES = frozenset("num n nb cnt count counts avg mean median max min std sum total ratio pct percent".split())
_TIMES = frozenset("time timestamp ts date dt datetime created updated at when day hour epoch".split())
_RELATIONS = frozenset("of per since in by from to until with for after before".split())
# Criteo's names and those of logs that follow it.
_SHORT = {re.compile(r"^c_?\d+$"): "code", re.compile(r"^i_?\d+$"): "amount"}


def words(name: str) -> list[str]:
    """The words of a name, in lower case.

    Example:

    >>> words("AdID"), words("hours_per_week"), words("unixReviewTime"), words("userid")
    (['ad', 'id'], ['hours', 'per', 'week'], ['unix', 'review', 'time'], ['user', 'id'])
    """
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z]{2})", "_", name).lower()
    found: list[str] = []
    for word in re.findall(r"[^\W\d_]+", spaced):
        stem = re.sub("ids?$", "", word)
        found += [stem, "id"] if stem != word and stem in ENTITIES else [word]
    return found


def meaning(name: str) -> tuple[str, str] | None:
    """Meaning of numbers by their column's name, `"code"` or `"amount"`, and the word that says so.

    The last word before a relation such as "per" names the thing: an item's price is an amount, a price's class is a code.

    Example:

    >>> meaning("item_price"), meaning("price_class"), meaning("hours_per_week"), meaning("C17"), meaning("x")
    (('amount', 'price'), ('code', 'class'), ('amount', 'hours'), ('code', 'C17'), None)
    """
    if numbered(name):
        return next(kind for pattern, kind in _SHORT.items() if pattern.match(name.lower())), name
    said = words(name)
    if said[:1] == ["number"]:
        return "amount", "number"
    head = next((k for k, word in enumerate(said) if k and word in _RELATIONS), len(said))
    for word in said[:head]:
        if word in _AGGREGATES:
            return "amount", word
    for word in reversed(said[:head]):
        for kind, known in (("code", _CODES), ("amount", _AMOUNTS)):
            if word in known:
                return kind, word
    return None


def numbered(name: str) -> bool:
    """True where a name follows Criteo's: I1 is a count, C1 a category."""
    return any(pattern.match(name.lower()) for pattern in _SHORT)


def entity(name: str) -> bool:
    """True where a name has the word for somebody or something that comes again: a user, an item."""
    return bool(ENTITIES & set(words(name)))


def time(name: str) -> bool:
    """True where a name has a word for a time.

    Example:

    >>> time("event_time"), time("hour"), time("price")
    (True, True, False)
    """
    return bool(_TIMES & set(words(name)))


def moment(name: str) -> bool:
    """True where a name can be of nothing but a point in time."""
    return bool({"timestamp", "datetime", "epoch"} & set(words(name)))
