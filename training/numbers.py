"""Numbers as they are written and as they are spoken, for inverse text normalisation pairs."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

Pair = tuple[str, str]  # as written, as spoken
HAN_DIGITS = "零一二三四五六七八九"
HANGUL_DIGITS = "영일이삼사오육칠팔구"
KOREAN_TENS = ["", "열", "스물", "서른", "마흔", "쉰", "예순", "일흔", "여든", "아흔"]
KOREAN_COUNTERS = ["", "한", "두", "세", "네", "다섯", "여섯", "일곱", "여덟", "아홉"]
MONTHS = [
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
]  # fmt: skip
ENGLISH_DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
ENGLISH_MONEY = [("${}", "dollars"), ("{} dollars", "dollars"), ("{} euros", "euros"), ("£{}", "pounds")]
FIRST_YEAR, LAST_YEAR = 1950, 2030


def chinese(number: int) -> str:
    """`number` below a hundred million in Chinese, with 零 for skipped places: 105 -> 一百零五."""
    if number >= 10_000:
        high, low = divmod(number, 10_000)
        joint = "零" if 0 < low < 1_000 else ""
        return chinese(high) + "万" + (joint + chinese(low) if low else "")
    spoken, skipped = "", False
    for unit, name in ((1000, "千"), (100, "百"), (10, "十"), (1, "")):
        digit = number // unit % 10
        if digit:
            spoken += ("零" if skipped and spoken else "") + HAN_DIGITS[digit] + name
        skipped = not digit
    return (spoken.removeprefix("一") if 10 <= number < 20 else spoken) or "零"


def sino(number: int, digits: str = HAN_DIGITS, units: str = "千百十", myriad: str = "万") -> str:
    """`number` below a hundred million as Japanese and Korean say it: no zeros, no 一 before 十 and 百."""
    if number >= 10_000:
        high, low = divmod(number, 10_000)
        head = "" if high == 1 and digits == HANGUL_DIGITS else sino(high, digits, units, myriad)
        return head + myriad + (sino(low, digits, units, myriad) if low else "")
    spoken = ""
    for unit, name in zip((1000, 100, 10), units, strict=True):
        digit = number // unit % 10
        spoken += (digits[digit] if digit > 1 else "") + name if digit else ""
    return spoken + (digits[number % 10] if number % 10 else "") or digits[0]


def korean(number: int) -> str:
    """`number` in Sino-Korean: 350 -> 삼백오십."""
    return sino(number, HANGUL_DIGITS, "천백십", "만")


def korean_native(number: int) -> str:
    """`number` from 1 to 99 as it stands before a counter: 21 -> 스물한, 20 -> 스무."""
    if number == 20:
        return "스무"
    return KOREAN_TENS[number // 10] + KOREAN_COUNTERS[number % 10]


def english(number: int) -> str:
    """`number` in words without hyphens: 125 -> one hundred and twenty five."""
    from num2words import num2words

    return num2words(number).replace("-", " ").replace(",", "")


def english_ordinal(number: int) -> str:
    """`number` as a spoken ordinal: 23 -> twenty third."""
    from num2words import num2words

    return num2words(number, to="ordinal").replace("-", " ")


def english_year(year: int) -> str:
    """`year` in pairs of digits: 1984 -> nineteen eighty four, 2005 -> two thousand five."""
    high, low = divmod(year, 100)
    if 2000 <= year < 2010:
        return "two thousand" + (f" {english(low)}" if low else "")
    return f"{english(high)} {'hundred' if not low else ('oh ' if low < 10 else '') + english(low)}"


def _digits(rng: random.Random, names: dict[str, str], groups: tuple[int, ...], joint: str, gap: str) -> Pair:
    parts = ["".join(rng.choice("0123456789") for _ in range(size)) for size in groups]
    return joint.join(parts), gap.join(gap.join(names[d] for d in part) for part in parts)


def _amount(rng: random.Random) -> int:
    size = rng.choice([1, 1, 1, 10, 100])
    return size * rng.randint(11 if size == 1 else 2, rng.choice([99, 999]) if size == 1 else 99)


def _english_slots() -> dict[str, Callable[[random.Random], Pair]]:
    names = dict(zip("0123456789", ENGLISH_DIGITS, strict=True))

    def count(rng: random.Random) -> Pair:
        number = _amount(rng)
        return f"{number:,}", english(number)

    def small(rng: random.Random) -> Pair:
        number = rng.randint(10, 60)
        return str(number), english(number)

    def money(rng: random.Random) -> Pair:
        number = _amount(rng)
        style, name = rng.choice(ENGLISH_MONEY)
        return style.format(f"{number:,}"), f"{english(number)} {name}"

    def price(rng: random.Random) -> Pair:
        dollars, cents = rng.randint(2, 99), rng.choice([25, 50, 75, 80, 95, 99])
        return f"${dollars}.{cents}", f"{english(dollars)} dollars and {english(cents)} cents"

    def date(rng: random.Random) -> Pair:
        month, day = rng.choice(MONTHS), rng.randint(1, 28)
        suffix = {1: "st", 2: "nd", 3: "rd", 21: "st", 22: "nd", 23: "rd"}.get(day, "th")
        return f"{month} {day}{suffix}", f"{month} {english_ordinal(day)}"

    def time(rng: random.Random) -> Pair:
        hour, minute = rng.randint(1, 12), rng.choice([10, 15, 20, 25, 30, 40, 45, 50])
        half, spoken = rng.choice([("", ""), (" a.m.", " a m"), (" p.m.", " p m")])
        return f"{hour}:{minute}{half}", f"{english(hour)} {english(minute)}{spoken}"

    def year(rng: random.Random) -> Pair:
        number = rng.randint(FIRST_YEAR, LAST_YEAR)
        return str(number), english_year(number)

    def percent(rng: random.Random) -> Pair:
        number = rng.randint(2, 100)
        return f"{number}%", f"{english(number)} percent"

    slots = {"count": count, "small": small, "money": money, "price": price, "date": date, "time": time}
    phone = partial(_digits, names=names, groups=(3, 4), joint="-", gap=" ")
    code = partial(_digits, names=names, groups=(4,), joint="", gap=" ")
    return slots | {"year": year, "percent": percent, "phone": phone, "code": code}


def _han_slots(language: str) -> dict[str, Callable[[random.Random], Pair]]:
    """Slots of zh, yue (traditional) and ja; dates and times are written 5月3日 and 3点20分."""
    zh, yue, ja = (language == name for name in ("zh", "yue", "ja"))
    read = sino if ja else (lambda n: chinese(n).replace("万", "萬")) if yue else chinese
    names = dict(zip("0123456789", HAN_DIGITS, strict=True))
    hour_name = {"zh": "点", "yue": "點", "ja": "時"}[language]
    money_names = {"zh": ["块钱", "元", "块"], "yue": ["蚊", "元"], "ja": ["円"]}[language]
    day_name = "日" if ja else "号" if zh else "號"

    def number(rng: random.Random, low: int, high: int) -> Pair:
        value = rng.randint(low, high)
        return str(value), read(value)

    def count(rng: random.Random) -> Pair:
        value = _amount(rng)
        return str(value), read(value)

    def money(rng: random.Random) -> Pair:
        value, name = _amount(rng) * (10 if ja else 1), rng.choice(money_names)
        return f"{value}{name}", read(value) + name

    def date(rng: random.Random) -> Pair:
        month, day = rng.randint(1, 12), rng.randint(1, 30)
        return f"{month}月{day}{day_name}", f"{read(month)}月{read(day)}{day_name}"

    def time(rng: random.Random) -> Pair:
        hour, minute = rng.randint(1, 12), rng.choice([10, 15, 20, 25, 30, 40, 45, 50])
        spoken = "两" if zh and hour == 2 else "兩" if yue and hour == 2 else read(hour)
        return f"{hour}{hour_name}{minute}分", f"{spoken}{hour_name}{read(minute)}分"

    def year(rng: random.Random) -> Pair:
        value = rng.randint(FIRST_YEAR, LAST_YEAR)
        return f"{value}年", (read(value) if ja else "".join(names[d] for d in str(value))) + "年"

    def percent(rng: random.Random) -> Pair:
        value = rng.randint(3, 99)
        return f"{value}%", f"{read(value)}パーセント" if ja else f"百分之{read(value)}"

    digits = partial(_digits, names=names | ({"0": "ゼロ"} if ja else {}))
    groups = {"zh": (3, 4, 4), "yue": (4, 4), "ja": (3, 4, 4)}[language]
    phone = partial(digits, groups=groups, joint="-" if ja else "", gap="、" if ja else "")
    code = partial(digits, groups=(4,), joint="", gap="、" if ja else "")
    small = partial(number, low=10, high=60)
    return {
        "count": count, "small": small, "money": money, "date": date, "time": time,
        "year": year, "percent": percent, "phone": phone, "code": code,
    }  # fmt: skip


def _korean_slots() -> dict[str, Callable[[random.Random], Pair]]:
    names = dict(zip("0123456789", "공일이삼사오육칠팔구", strict=True))
    months = {6: "유", 10: "시"}

    def count(rng: random.Random) -> Pair:
        value = _amount(rng)
        return str(value), korean(value) + " "  # a space before the counter

    def native(rng: random.Random) -> Pair:
        value = rng.randint(10, 60)
        return str(value), korean_native(value) + " "

    def money(rng: random.Random) -> Pair:
        value = 100 * rng.choice([rng.randint(5, 99), 10 * rng.randint(2, 99), 100 * rng.randint(2, 50)])
        return f"{value}원", f"{korean(value)} 원"

    def date(rng: random.Random) -> Pair:
        month, day = rng.randint(1, 12), rng.randint(1, 30)
        return f"{month}월 {day}일", f"{months.get(month, korean(month))}월 {korean(day)}일"

    def time(rng: random.Random) -> Pair:
        hour, minute = rng.randint(1, 12), rng.choice([10, 15, 20, 25, 30, 40, 45, 50])
        return f"{hour}시 {minute}분", f"{korean_native(hour)} 시 {korean(minute)} 분"

    def year(rng: random.Random) -> Pair:
        value = rng.randint(FIRST_YEAR, LAST_YEAR)
        return f"{value}년", f"{korean(value)}년"

    def percent(rng: random.Random) -> Pair:
        value = rng.randint(2, 99)
        return f"{value}%", f"{korean(value)} 퍼센트"

    phone = partial(_digits, names=names, groups=(3, 4, 4), joint="-", gap="")
    code = partial(_digits, names=names, groups=(4,), joint="", gap="")
    return {
        "count": count, "small": native, "money": money, "date": date, "time": time,
        "year": year, "percent": percent, "phone": phone, "code": code,
    }  # fmt: skip


def number_slots(language: str) -> dict[str, Callable[[random.Random], Pair]]:
    """The slots that a template writes as {#money}, {#date} and so on."""
    if language == "en":
        return _english_slots()
    return _korean_slots() if language == "ko" else _han_slots(language)
