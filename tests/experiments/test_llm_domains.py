"""The domains: exercises are right, splits share nothing, texts are found."""

import datetime
import json
import re

import numpy as np
import pytest

from experiments.llm.domains import DOMAINS, base_mixture, make_domains
from experiments.llm.generated import _UNITS, GENERATORS, draw_lines, to_roman
from experiments.llm.streams import (
    END,
    Stream,
    cut_windows,
    repeat_to,
    stream_of_documents,
    stream_of_lines,
)
from experiments.llm.texts import TEXTS, cut, load_folder, split_documents

SIZES = {"seed": 0, "length": 64, "num_validation": 8, "num_test": 16}


def value_of(number):
    """A Roman numeral's value, read from the right."""
    values = dict(zip("IVXLCDM", (1, 5, 10, 50, 100, 500, 1000), strict=True))
    total = 0
    for letter in reversed(number):
        value = values[letter]
        total += value if 4 * value >= total else -value
    return total


def check_arithmetic(prompt, answer):
    assert eval(prompt.removesuffix("=")) == int(answer)


def check_sorting(prompt, answer):
    numbers = [int(x) for x in prompt.removeprefix("sort ").split(" > ")[0].split()]
    found = [int(x) for x in answer.split()]
    assert sorted(numbers) == found


def check_json(prompt, answer):
    found = {}
    for entry in prompt.removesuffix(" => ").split("; "):
        key, *values = entry.split()
        numbers = [int(x) for x in values]
        found[key] = numbers if len(numbers) > 1 else numbers[0]
    assert json.loads(answer) == found


def check_dates(prompt, answer):
    start, days = re.fullmatch(r"(\S+) \+ (\d+) days: ", prompt).groups()
    end = datetime.date.fromisoformat(start) + datetime.timedelta(int(days))
    assert answer.split()[-1] == end.isoformat()
    assert answer in (end.isoformat(), end.strftime("%a %Y-%m-%d"))


def check_brackets(prompt, answer):
    text = prompt.removeprefix("close ").removesuffix(" with ")
    text += answer if answer != "nothing" else ""
    while text != (text := re.sub(r"\(\)|\[\]|\{\}|<>", "", text)):
        pass
    assert text == ""


def check_units(prompt, answer):
    number, given, asked = re.fullmatch(r"(\d+) (\w+) in (\w+): ", prompt).groups()
    factors = {(large, small): factor for large, small, factor in _UNITS}
    if (given, asked) in factors:
        assert int(answer) == int(number) * factors[given, asked]
    else:
        assert int(answer) * factors[asked, given] == int(number)


def check_strings(prompt, answer):
    names = ("upper", "first", "reverse", "double", "rotate", "sorted")
    own = {
        "first": lambda s: s[:1],
        "reverse": lambda s: "".join(reversed(s)),
        "rotate": lambda s: (s * 2)[1 : len(s) + 1],
        "double": lambda s: s + s,
        "upper": lambda s: s.upper(),
        "sorted": lambda s: "".join(sorted(s)),
    }
    assert set(own) == set(names)
    assert eval(prompt.removesuffix(" -> "), own) == json.loads(answer)


def check_roman(prompt, answer):
    given = re.fullmatch(r"the year (\S+) was ", prompt).group(1)
    if given.isdigit():
        assert value_of(answer) == int(given)
    else:
        assert value_of(given) == int(answer)


def check_bases(prompt, answer):
    read = lambda text: int(text[2:], {"x": 16, "b": 2, "d": 10}[text[1]])
    given, asked = prompt.split(" as ")
    assert read(given) == read(asked + answer)


def check_sets(prompt, answer):
    read = lambda text: set(map(int, text.strip("{} ").split()))
    x, operation, y = re.fullmatch(r"(\{.*\}) (.) (\{.*\}) is ", prompt).groups()
    x, y = read(x), read(y)
    assert read(answer) == {"&": x & y, "|": x | y, "-": x - y}[operation]


CHECKS = {
    "arithmetic": check_arithmetic,
    "sorting": check_sorting,
    "json": check_json,
    "dates": check_dates,
    "brackets": check_brackets,
    "units": check_units,
    "strings": check_strings,
    "roman": check_roman,
    "bases": check_bases,
    "sets": check_sets,
}


@pytest.mark.parametrize("name", sorted(GENERATORS))
def test_answers_are_right(name, rng):
    for hard in (0.0, 1.0):
        lines = draw_lines(name, rng, 6_000, hard=hard)
        assert len(lines) > 80
        for line in lines:
            CHECKS[name](line.prompt, line.answer)


def test_roman_numerals_are_those_of_every_year():
    assert all(value_of(to_roman(n)) == n for n in range(1, 4000))


@pytest.mark.parametrize("name", sorted(GENERATORS))
def test_a_prompt_has_one_answer(name, rng):
    answers = {}
    for line in draw_lines(name, rng, 40_000, hard=1.0):
        assert answers.setdefault(line.prompt, line.answer) == line.answer


def prompts(stream):
    """The prompts of a stream of lines: all that is not counted."""
    parts = []
    for line in bytes(stream.tokens.tolist()).split(b"\n")[:-1]:
        at = len(b"".join(parts)) + len(parts)
        parts.append(line)
        yield line[: int(np.sum(~stream.counted[at : at + len(line)]))]


@pytest.mark.parametrize("name", ["arithmetic", "roman", "bases"])
def test_no_prompt_is_in_two_splits(name):
    (domain,) = make_domains([name], **SIZES)
    held = domain._held_out()
    test, validation = ([x.prompt.encode() for x in held[k]] for k in sorted(held))
    assert len({*test, *validation}) == len(test) + len(validation)
    for stream in (domain.training(20_000), domain.diluted(20_000)):
        seen = set(prompts(stream))
        assert len(seen) > 20
        assert not seen & {*test, *validation}


def test_every_domain_has_sequences_with_something_to_count():
    domains = make_domains(DOMAINS, **SIZES)
    assert len({d.name for d in domains}) == 16
    for domain in domains:
        for split, num in (("validation", 8), ("test", 16)):
            windows = domain.windows(split)
            assert windows.inputs.shape == (num, 64)
            assert (windows.inputs[:, 1:] == windows.targets[:, :-1]).all()
            assert windows.counted.any(axis=1).all()
            assert (domain.documents is not None) == (domain.name in TEXTS)


def test_the_base_sees_mostly_easy_exercises_and_all_streams_have_one_length():
    domains = make_domains(["sorting", "prose"], **SIZES)
    mixture = base_mixture(domains, 2_000)
    assert mixture.shape == (4, 2_000)
    sorting = bytes(mixture[2].tolist()).decode()
    lines = sorting.split("\n")[:-1]
    assert 0.7 < np.mean([len(line) <= len("sort 1 2 3 > 1 2 3") for line in lines]) < 1
    again = base_mixture(make_domains(["sorting", "prose"], **SIZES), 2_000)
    assert (again == mixture).all()


def test_seeds_draw_other_splits_and_exercises():
    first, second = (
        make_domains(["prose", "sorting"], **{**SIZES, "seed": seed}) for seed in (0, 1)
    )
    for one, other in zip(first, second, strict=True):
        assert (one.windows("test").inputs != other.windows("test").inputs).any()
    assert first[0].digest() != second[0].digest()


@pytest.mark.parametrize("name", TEXTS)
def test_no_document_is_in_two_splits(name):
    (domain,) = make_domains([name], **SIZES)
    sizes = {k: sum(map(len, v)) for k, v in domain.documents.items()}
    documents = [x for split in domain.documents.values() for x in split]
    assert len(set(documents)) == len(documents)
    total = sum(sizes.values())
    assert 0.15 * total <= sizes["test"] < 0.26 * total
    assert 0.1 * total <= sizes["validation"] < 0.21 * total


def test_large_documents_are_only_trained_on_and_few_are_cut():
    documents = [bytes([i]) * 100 for i in range(40)] + [b"large" * 1000]
    for seed in range(5):
        splits = split_documents(documents, seed, validation=0.1, test=0.15)
        assert b"large" * 1000 in splits["train"]
    pieces = cut([b"x" * 50, b"y" * 50])
    assert len(pieces) == 20
    assert b"".join(pieces) == b"x" * 50 + b"y" * 50


def test_a_folder_of_texts_is_a_domain_for_each_sub_folder(tmp_path):
    for domain, letter in (("cats", b"c"), ("dogs", b"d")):
        (tmp_path / domain / "more").mkdir(parents=True)
        for i in range(4):
            text = b"\n".join([letter * 30 + b"%d" % j for j in range(i, 99)])
            (tmp_path / domain / "more" / f"{i}.txt").write_bytes(text)
    (tmp_path / "empty").mkdir()
    assert sorted(load_folder(tmp_path)) == ["cats", "dogs"]
    sizes = {**SIZES, "num_test": 8, "num_validation": 4}
    cats, _ = make_domains(["cats", "roman"], texts=tmp_path, **sizes)
    assert ord("c") in cats.windows("test").inputs
    with pytest.raises(ValueError, match="domain 'cats': 99 sequences of 64 tokens"):
        make_domains(["cats"], texts=tmp_path, **{**sizes, "num_test": 99})[0].windows(
            "test"
        )
    with pytest.raises(ValueError, match=r"'birds' is no domain; .* cats, dogs, prose"):
        make_domains(["birds"], texts=tmp_path, **sizes)
    with pytest.raises(ValueError, match="has no texts"):
        load_folder(tmp_path / "empty")


def test_too_few_prompts_are_told(rng):
    with pytest.raises(ValueError, match="'bases' has too few prompts"):
        draw_lines("bases", rng, 10_000, hard=0.0, distinct=True)


def test_streams_are_bytes_with_ends_and_repeat():
    stream = stream_of_documents([b"ab", b"c"])
    assert repeat_to(stream, 7).tokens.tolist() == [END, 97, 98, END, 99, END, 97]
    assert stream.counted.tolist() == [False, True, True, False, True]
    lines = stream_of_lines([("é=", "1"), ("b=", "22")])
    assert bytes(lines.tokens[lines.counted].tolist()) == b"1\n22\n"


def test_windows_begin_with_a_line_and_do_not_overlap():
    stream = stream_of_lines([(f"{i}:", "xyz") for i in range(200)])
    windows = cut_windows(stream, 20, 30)
    starts = ["".join(map(chr, row)).split(":")[0] for row in windows.inputs]
    numbers = [int(start) for start in starts]
    assert numbers == sorted(set(numbers))
    with pytest.raises(ValueError, match="without line ends"):
        cut_windows(Stream(np.zeros(99, int), np.ones(99, bool)), 10, 2)
