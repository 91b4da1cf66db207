"""The golden vectors as a data package: manifest, schema, zip file, and readers that have no library.

Oracles: hashlib and jsonschema over the stored files; files damaged on purpose, each of which has to be named; the
generator at 100 digits in place of 60; exact rational arithmetic for the one call that has rational answers; and
programs that run without any installed package.
"""

import copy
import hashlib
import json
import re
import shutil
import subprocess
import sys
import zipfile
from fractions import Fraction

import jsonschema
import pytest
from golden_vectors import ROOT, generator

from refimpl.verify.golden import CALLS, cases, relative_error

FOLDER = ROOT / "refimpl" / "verify" / "vectors"
NODE = shutil.which("node")


@pytest.fixture(scope="module")
def tool():
    return generator("vectors")


@pytest.fixture
def folder(tmp_path):
    """A copy of the stored package."""
    return shutil.copytree(FOLDER, tmp_path / "vectors")


def stored(name):
    return json.loads((FOLDER / name).read_text(encoding="utf-8"))


def replace(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def miscount(folder, name):
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    next(entry for entry in manifest["files"] if entry["name"] == name)["cases"] = 999
    path.write_text(json.dumps(manifest), encoding="utf-8")


# -- manifest ---------------------------------------------------------------------------------------------------------


def test_manifest_describes_the_stored_files(tool):
    assert tool.problems() == []
    manifest = stored("manifest.json")
    data = {p.name for p in FOLDER.glob("*.json")} - {"manifest.json", "schema.json"}
    assert {entry["name"] for entry in manifest["files"]} == data
    for entry in manifest["files"]:
        content = (FOLDER / entry["name"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == entry["sha256"], entry["name"]
        assert (len(content), len(json.loads(content)["cases"])) == (entry["bytes"], entry["cases"])
    assert manifest["cases"] == sum(entry["cases"] for entry in manifest["files"]) == len(cases())
    assert {call for entry in manifest["files"] for call in entry["calls"]} == set(CALLS)
    assert re.fullmatch(r"\d+\.\d+\.\d+", manifest["version"])
    assert manifest["digits"] >= 50
    assert hashlib.sha256((FOLDER / "schema.json").read_bytes()).hexdigest() == manifest["schema_sha256"]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda f: replace(f / "series.json", "0.375", "0.376"), "series.json has another SHA-256"),
        (lambda f: (f / "elmo.json").unlink(), "elmo.json is missing"),
        (lambda f: (f / "manifest.json").unlink(), "manifest.json is missing"),
        (lambda f: miscount(f, "spectrum.json"), "the manifest says 999"),
        (lambda f: replace(f / "manifest.json", f'"cases": {len(cases())}', '"cases": 999'), "is not what"),
        (lambda f: replace(f / "manifest.json", "MIT", "none"), "is not what"),
        (lambda f: shutil.copy(f / "elmo.json", f / "more.json"), "more.json is not in the manifest"),
        (lambda f: replace(f / "schema.json", "1e-11", "1e-01"), "schema.json is not what"),
    ],
)
def test_damage_is_named_and_not_packed(tool, folder, damage, said):
    assert tool.problems(folder) == []
    damage(folder)
    assert said in "; ".join(tool.problems(folder))
    with pytest.raises(ValueError, match="not packed"):
        tool.pack(folder / "out.zip", folder)


def test_changed_vectors_need_another_version(tool, folder, monkeypatch):
    tool.write(folder)
    assert tool.problems(folder) == []
    replace(folder / "series.json", "0.375", "0.376")
    with pytest.raises(ValueError, match="raise VERSION"):
        tool.write(folder)
    monkeypatch.setattr(tool, "VERSION", "2.0.0")
    assert tool.write(folder)["version"] == "2.0.0"
    assert tool.problems(folder) == []


def test_readme_and_tool_name_the_same_version(tool):
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\d+\.\d+\.\d+", readme)) == {tool.VERSION} == {stored("manifest.json")["version"]}


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda c: None, ""),
        (lambda c: c[0].update(source="another book"), "patch"),
        (lambda c: c[0].update(rtol=2 * c[0]["rtol"]), "patch"),
        (lambda c: c[0]["expected"].__setitem__(0, c[0]["expected"][0] * (1 + 2e-16)), "patch"),
        (lambda c: c.append({**c[0], "id": "one-more"}), "minor"),
        (lambda c: c[0].update(rtol=c[0]["rtol"] / 2), "major"),
        (lambda c: c[0].update(rtol_float32=c[0]["rtol_float32"] / 2), "major"),
        (lambda c: c[0]["expected"].__setitem__(0, c[0]["expected"][0] * (1 + 1e-9)), "major"),
        (lambda c: c[0]["expected"].__setitem__(0, None), "major"),
        (lambda c: c[0]["inputs"]["matrix"][0].__setitem__(0, 7.0), "major"),
        (lambda c: c.pop(), "major"),
        (lambda c: [c.pop(), c.append({**c[0], "id": "one-more"})], "major"),
    ],
)
def test_part_of_the_version_that_has_to_grow(tool, change, part):
    old = tool.vector_files()
    content = json.loads(old["spectrum.json"])
    change(content["cases"])
    same = content == json.loads(old["spectrum.json"])
    new = {**old, "spectrum.json": old["spectrum.json"] if same else json.dumps(content).encode()}
    assert tool.required_change(old, new)[0] == part


def test_another_layout_is_a_major_change(tool):
    old = tool.vector_files()
    new = {name: data.replace(b'"schema": 1', b'"schema": 2') for name, data in old.items()}
    assert tool.required_change(old, new) == ("major", ["another layout"])


# -- schema -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def validator():
    schema = stored("schema.json")
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_schema_knows_every_call():
    assert set(stored("schema.json")["$defs"]["case"]["properties"]["call"]["enum"]) == set(CALLS)


def test_every_file_meets_the_schema(validator, tool):
    for name in tool.vector_files():
        assert [error.message for error in validator.iter_errors(stored(name))] == [], name


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(schema=2),
        lambda d: d.update(extra=1),
        lambda d: d.pop("precision"),
        lambda d: d.update(cases=[]),
        lambda d: d["cases"][0].pop("source"),
        lambda d: d["cases"][0].update(source=""),
        lambda d: d["cases"][0].update(rtol=0),
        lambda d: d["cases"][0].update(rtol=1e-3),
        lambda d: d["cases"][0].update(id="Not a name"),
        lambda d: d["cases"][0].update(call="inverse"),
        lambda d: d["cases"][0].update(expected=1.0),
        lambda d: d["cases"][0].update(expected=[["1.0"]]),
        lambda d: d["cases"][0]["inputs"].pop("matrix"),
        lambda d: d["cases"][0]["inputs"].update(gradient=[1.0]),
        lambda d: d["cases"][0]["inputs"].update(matrix=[1.0, 2.0]),
        lambda d: d["cases"][0]["inputs"].update(matrix=[[1.0, float("nan"), "x"]]),
    ],
)
def test_a_file_that_breaks_a_rule_does_not_meet_the_schema(validator, change):
    content = copy.deepcopy(stored("spectrum.json"))
    change(content)
    assert not validator.is_valid(content)


def test_no_number_is_infinite_or_nan(tool):
    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    for data in tool.vector_files().values():
        json.loads(data, parse_constant=refuse)


def test_numbers_are_the_shortest_that_read_back(tool):
    for name, data in tool.vector_files().items():
        texts = re.findall(r"-?\d+\.\d+(?:e[+-]?\d+)?|-?\d+e[+-]?\d+", json.dumps([c["expected"] for c in
                           json.loads(data, parse_float=lambda text: text)["cases"]]))  # fmt: skip
        assert len(texts) > 10, name
        assert not [text for text in texts if repr(float(text)) != text], name


# -- zip file ---------------------------------------------------------------------------------------------------------


def test_pack_gives_the_same_bytes_and_all_files(tool, tmp_path):
    first, second = (tool.pack(tmp_path / name) for name in ("a.zip", "b.zip"))
    assert first.read_bytes() == second.read_bytes()
    with zipfile.ZipFile(first) as archive:
        top = f"golden-vectors-{tool.VERSION}/"
        names = {name.removeprefix(top) for name in archive.namelist()}
        assert names == {"LICENSE", "README.md", "manifest.json", "schema.json", "read_vectors.py", "read_vectors.js",
                         *tool.vector_files()}  # fmt: skip
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert "MIT" in archive.read(top + "LICENSE").decode()
    assert tool.packed_files(first) == tool.vector_files()


def test_command(tool, tmp_path, capsys):
    path = tmp_path / "package.zip"
    assert tool.main(["--check"]) == tool.main(["pack", str(path)]) == tool.main(["compare", str(path)]) == 0
    assert "nothing has to grow" in capsys.readouterr().out
    assert tool.main(["compare", str(tmp_path / "absent.zip")]) == 1
    assert tool.main(["--what"]) == 2


# -- readers without a library ----------------------------------------------------------------------------------------

# Python without site-packages, so that a reader which imports NumPy fails.
READERS = {
    "python": [sys.executable, "-I", "-S", "read_vectors.py"],
    "javascript": [NODE or "node", "read_vectors.js"],
}


def read(language, folder):
    if language == "javascript" and NODE is None:
        pytest.skip("node is not here")
    command = READERS[language]
    program = folder / command[-1]
    return subprocess.run([*command[:-1], str(program)], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("language", READERS)
def test_reader_finds_its_answers_right(language, tool, tmp_path):
    with zipfile.ZipFile(tool.pack(tmp_path / "package.zip")) as archive:
        archive.extractall(tmp_path)
    done = read(language, tmp_path / f"golden-vectors-{tool.VERSION}")
    asked = [case for case in cases() if case.call == "series_coefficients"]
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(cases())} cases read, {len(asked)} computed, 0 wrong" in done.stdout
    assert done.stdout.count("right  ") == len(asked) >= 10


@pytest.mark.parametrize("language", READERS)
def test_reader_notices_a_changed_file(language, folder):
    replace(folder / "series.json", "0.375", "0.376")
    done = read(language, folder)
    assert done.returncode == 1
    assert "series.json has another SHA-256" in done.stdout


@pytest.mark.parametrize("language", READERS)
def test_reader_notices_a_wrong_answer(language, folder, tool, monkeypatch):
    replace(folder / "series.json", "0.375", "0.375000000001")
    monkeypatch.setattr(tool, "VERSION", "2.0.0")
    tool.write(folder)
    done = read(language, folder)
    assert done.returncode == 1
    assert "wrong  coefficients " in done.stdout
    assert "1 wrong" in done.stdout


def test_error_of_the_reader_is_that_of_the_package():
    reader = __import__("refimpl.verify.vectors.read_vectors", fromlist=["relative_error"])
    pairs = [([1.0, 2.5], [1.0, 2.0]), ([0.0, 3.0], [0.0, 0.0]), ([1.0, None], [1.0, None]), ([1.0, 1.0], [1.0, None]),
             ([[1.0], [2.0]], [[1.0], [4.0]]), ([1.0], [1.0, 1.0]), ({"a": 1.0, "b": 2.0}, {"b": 4.0})]  # fmt: skip
    for found, expected in pairs:
        assert reader.relative_error(found, expected) == relative_error(found, expected)


# -- precision of the generator ---------------------------------------------------------------------------------------


def last_bits(one, other):
    """How many numbers differ, and the largest relative difference."""
    differing, worst = 0, 0.0
    for a, b in zip(one["cases"], other["cases"], strict=True):
        assert (a["id"], a["inputs"]) == (b["id"], b["inputs"])
        differing += a["expected"] != b["expected"]
        worst = max(worst, relative_error(b["expected"], a["expected"]))
    return differing, worst


@pytest.mark.parametrize("group", ["spectrum", "problems"])
def test_a_group_computed_again_with_100_digits_is_the_stored_one(group):
    tool = generator("golden")
    fresh = tool.files([group], digits=100)
    assert list(fresh) == [group]
    assert tool.rendered(fresh[group]) == (FOLDER / f"{group}.json").read_text(encoding="utf-8")


def test_so_many_digits_are_needed():
    # With 15 digits another answer comes out: the digits that are asked for are those that are used.
    tool = generator("golden")
    assert last_bits(tool.files(["spectrum"])["spectrum"], tool.files(["spectrum"], digits=15)["spectrum"])[0] > 0
    assert last_bits(tool.files(["problems"])["problems"], tool.files(["problems"], digits=30)["problems"])[1] > 1e-3


def test_coefficients_are_the_rounded_rational_numbers():
    # (1/(√(1-z) + d)) (√(1-z) + d) = 1, multiplied out: exact in fractions, rounded once.
    asked = [case for case in cases() if case.call == "series_coefficients"]
    assert len(asked) >= 10
    for case in asked:
        terms, damping = case.inputs["terms"], Fraction(case.inputs["damping"])
        root = [Fraction(1)]
        for k in range(1, terms):
            root.append(root[-1] * (k - Fraction(3, 2)) / k)
        c = []
        for k in range(terms):
            c.append((int(k == 0) - sum(root[j] * c[k - j] for j in range(1, k + 1))) / (1 + damping))
        assert [float(x) for x in c] == case.expected, case.id
