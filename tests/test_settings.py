"""Settings: file, environment and overrides in that order; every wrong one is named with its place and what to do."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from vera_core.errors import RestrictedError, UsageError
from vera_core.keys.local import LocalKeys
from vera_core.operations.opening import KeyOpener, workplace
from vera_core.settings import KeyServiceName, KeySettings, Settings
from vera_core.source.mapping import ContentKind, ErasureTable, OnRejects, SourceSettings, TimeType, has_password

DOCUMENT = Path(__file__).parents[1] / "docs" / "sources.md"
SOURCE = """
[sources.invoices]
url = "sqlite:////srv/business.sqlite"
table = "invoices"
uid = "number"
created_at = { column = "created_at", type = "text" }
content = { column = "body", kind = "inline" }
"""


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings of whoever runs the tests."""
    monkeypatch.chdir(tmp_path)
    for name in ("VERA_SETTINGS", "VERA_REPOSITORY", "VERA_SPOOL", "VERA_ACTOR"):
        monkeypatch.delenv(name, raising=False)


def written(text: str, path: str = "vera.toml") -> Path:
    file = Path(path)
    file.write_text(text)
    return file


def refused(text: str) -> UsageError:
    with pytest.raises(UsageError) as caught:
        Settings.load(written(text))
    return caught.value


def test_nothing_is_needed(tmp_path: Path) -> None:
    settings = Settings.load()
    assert (settings.repository, settings.tenant, settings.sources) == ("", "default", {})
    assert "@" in settings.actor
    assert settings.spool.is_absolute()


def test_the_later_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    written('repository = "s3://file"\nactor = "file"\ntenant = "file"' + SOURCE)
    monkeypatch.setenv("VERA_ACTOR", "environment")
    monkeypatch.setenv("VERA_TENANT", "environment")
    monkeypatch.setenv("VERA_SOURCES__INVOICES__LAG_DAYS", "5")
    settings = Settings.load(tenant="option", actor=None)
    assert (settings.repository, settings.actor, settings.tenant) == ("s3://file", "environment", "option")
    assert settings.source("invoices").lag_days == 5
    assert settings.source("invoices").table == "invoices"


def test_where_the_file_is(monkeypatch: pytest.MonkeyPatch) -> None:
    written('actor = "here"')
    other = written('actor = "elsewhere"', "other.toml")
    third = written('actor = "named"', "third.toml")
    assert Settings.load().actor == "here"
    monkeypatch.setenv("VERA_SETTINGS", str(other))
    assert Settings.load().actor == "elsewhere"
    assert Settings.load(third).actor == "named"
    with pytest.raises(UsageError, match="no such settings file"):
        Settings.load(Path("nothing.toml"))
    monkeypatch.setenv("VERA_SETTINGS", "nothing.toml")
    with pytest.raises(UsageError, match="no such settings file"):
        Settings.load()


def test_a_relative_spool_starts_at_the_file_that_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "conf").mkdir()
    file = written('spool = "work"', "conf/vera.toml")
    assert Settings.load(file).spool == tmp_path / "conf" / "work"
    monkeypatch.setenv("VERA_SPOOL", "here")
    assert Settings.load(written("", "empty.toml")).spool == tmp_path / "here"


@pytest.mark.parametrize(
    ("text", "key", "what"),
    [
        ("colour = 1", "colour", "no such setting"),
        ("workers = 0", "workers", "greater than 0"),
        (SOURCE + "colour = 1", "sources.invoices.colour", "no such setting"),
        (SOURCE.replace('table = "invoices"', ""), "sources.invoices.table", "missing"),
        (SOURCE.replace('"text"', '"date"'), "sources.invoices.created_at.type", "'timestamptz', 'timestamp'"),
        (SOURCE.replace('"text"', '"timestamp"'), "sources.invoices.created_at", "no zone"),
        (SOURCE.replace('"text"', '"text", zone = "Mars/Base"'), "sources.invoices.created_at", "no known time zone"),
        (SOURCE.replace('"text"', '"epoch_s", zone = "UTC"'), "sources.invoices.created_at", "takes no zone"),
        (SOURCE.replace('"inline"', '"path"'), "sources.invoices.content", "needs roots"),
        (SOURCE.replace('"inline"', '"path", roots = ["a"]'), "sources.invoices.content", "not absolute"),
        (SOURCE.replace('"inline"', '"s3"'), "sources.invoices.content", "needs buckets"),
        (SOURCE.replace('"inline"', '"inline", roots = ["/a"]'), "sources.invoices.content", "needs roots"),
        (SOURCE + 'url_env = "X"', "sources.invoices", "not exactly one of url and url_env"),
        (SOURCE.replace("sqlite:////srv/business.sqlite", ""), "sources.invoices", "not exactly one"),
        (SOURCE + 'tenant = { column = "c" }', "sources.invoices", "needs a map"),
        (SOURCE + 'tenant = { value = "A B" }', "sources.invoices", "no valid tenant"),
        (SOURCE + 'tenant = { column = "c", value = "d" }', "sources.invoices.tenant", "both value and column"),
        (SOURCE + 'media_type = { map = { a = "b" } }', "sources.invoices.media_type", "map needs the column"),
        (SOURCE + 'media_type = { column = "m", map = { a = "b" } }', "sources.invoices", "takes no map"),
        (SOURCE + "lag_days = 0", "sources.invoices", "lag_days is 0"),
        (SOURCE + 'late = { column = "c", settle_seconds = -1 }', "sources.invoices.late", "negative"),
        (SOURCE + 'on_rejects = "ignore"', "sources.invoices.on_rejects", "'stop' or 'advance'"),
        (SOURCE + 'begin = "soon"', "sources.invoices.begin", "date"),
        ('[keys]\nservice = "magic"', "keys.service", "'transit' or 'local'"),
        ('[keys]\nservice = "local"', "keys", "needs its file"),
        ('[keys]\nservice = "local"\nfile = "kek.json"', "keys", "not absolute"),
        ('[keys]\nservice = "local"\nfile = "/k"\ntoken = "hvs.x"', "keys.token", "no such setting"),
        ('[keys]\nservice = "transit"\nkey = "vera"', "keys", "needs the server's address"),
        (
            '[keys]\nservice = "transit"\naddress = "https://a"\nkey = "k"\ntoken_env = "X"\ntoken_file = "/t"',
            "keys",
            "both token_env and token_file",
        ),
    ],
)
def test_wrong_settings_are_named_with_their_place(text: str, key: str, what: str) -> None:
    error = refused(text)
    assert what in error.what
    assert error.where == {"file": "vera.toml", "key": key}
    assert error.todo


def test_several_wrong_settings_are_told_at_once() -> None:
    error = refused("\n".join(f"wrong{n} = 1" for n in range(8)))
    assert error.where["key"] == "wrong0"
    assert "wrong4" in error.todo
    assert "wrong5" not in error.todo
    assert "3 more" in error.todo


def test_wrong_variables_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    written(SOURCE)
    monkeypatch.setenv("VERA_SOURCES__INVOICES__LAG_DAYS", "many")
    with pytest.raises(UsageError) as caught:
        Settings.load()
    assert caught.value.where == {"variable": "VERA_SOURCES__INVOICES__LAG_DAYS"}


def test_variables_reach_into_tables_and_hold_lists_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    written(SOURCE)
    monkeypatch.setenv("VERA_WORKERS", "7")
    monkeypatch.setenv("VERA_FRESHNESS_SECONDS", "0.5")
    monkeypatch.setenv("VERA_SOURCES", '{"letters": {"uid": "id", "lag_days": 1}}')
    source = "VERA_SOURCES__LETTERS__"
    for name, value in {
        "URL": "sqlite:////srv/letters.sqlite", "TABLE": "[brackets", "LAG_DAYS": "3", "BEGIN": "2026-03-01",
        "CREATED_AT": '{"column": "at", "type": "text"}', "CONTENT__COLUMN": "file", "CONTENT__KIND": "path",
        "CONTENT__ROOTS": '["/srv/a", "/srv/b"]',
    }.items():  # fmt: skip
        monkeypatch.setenv(source + name, value)
    monkeypatch.setenv("VERA_COLOUR", "red")
    monkeypatch.setenv("VERA_TRACEBACK", "1")
    monkeypatch.setenv("vera_tenant", "lower")
    settings = Settings.load()
    assert (settings.workers, settings.freshness_seconds, settings.tenant) == (7, 0.5, "lower")
    assert set(settings.sources) == {"invoices", "letters"}
    letters = settings.source("letters")
    assert (letters.uid, letters.lag_days, letters.table, letters.begin) == ("id", 3, "[brackets", date(2026, 3, 1))
    assert (letters.content.kind, letters.content.roots) == (ContentKind.PATH, (Path("/srv/a"), Path("/srv/b")))
    assert letters.created_at.column == "at"


def test_a_list_in_a_variable_that_is_wrong_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    written(SOURCE)
    monkeypatch.setenv("VERA_WORKERS", "[1, 2]")
    with pytest.raises(UsageError, match="valid integer") as caught:
        Settings.load()
    assert caught.value.where == {"variable": "VERA_WORKERS"}


def transit(**more: Any) -> KeyOpener:
    return KeyOpener(
        KeySettings(service=KeyServiceName.TRANSIT, address="https://bao.example:8200", key="vera", **more)
    )


def test_the_key_service_is_what_the_settings_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    LocalKeys.create(tmp_path / "kek.json")
    monkeypatch.setenv("VERA_KEYS__SERVICE", "local")
    monkeypatch.setenv("VERA_KEYS__FILE", str(tmp_path / "kek.json"))
    opener = workplace(Settings.load()).key_service
    assert opener is not None
    assert opener().kek == LocalKeys(tmp_path / "kek.json").kek
    assert workplace(Settings.load()).key_service == opener, "equal settings are one key service"
    assert transit(mount="archive/keys", namespace="bank")().kek == "transit:bank/archive/keys/vera"
    with pytest.raises(UsageError, match="without TLS"):
        replace(transit(), settings=replace(transit().settings, address="http://bao.example"))()


def test_the_token_comes_from_where_the_settings_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BAO_TOKEN", "VAULT_TOKEN", "MINE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(RestrictedError, match="no token") as caught:
        transit().token()
    assert "BAO_TOKEN or VAULT_TOKEN" in caught.value.todo
    monkeypatch.setenv("VAULT_TOKEN", "hvs.vault")
    assert transit().token() == "hvs.vault"
    monkeypatch.setenv("BAO_TOKEN", "hvs.bao")
    assert transit().token() == "hvs.bao"
    with pytest.raises(RestrictedError, match="no token"):
        transit(token_env="MINE").token()
    monkeypatch.setenv("MINE", "hvs.mine")
    assert transit(token_env="MINE").token() == "hvs.mine"
    by_file = KeyOpener(replace(transit().settings, token_file=tmp_path / "token"))
    with pytest.raises(RestrictedError, match="can't be read"):
        by_file.token()
    for token in ("hvs.first", "hvs.renewed"):
        (tmp_path / "token").write_text(token + "\n")
        assert by_file.token() == token
    assert "hvs" not in repr(by_file)


@pytest.mark.parametrize("text", ["[", "a = 1\na = 2", "\ud800"])
def test_files_that_are_no_toml(text: str) -> None:
    Path("vera.toml").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(UsageError, match="no TOML"):
        Settings.load()


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="can't be read"):
        Settings.load(tmp_path)


def test_names_of_sources_and_tenants_are_checked() -> None:
    assert "no valid source" in refused(SOURCE.replace("invoices]", '"../x"]')).what
    assert "no valid tenant" in refused('tenant = "A/B"').what


def test_unknown_sources_are_answered_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="no source 'x'") as caught:
        Settings.load(written(SOURCE)).source("x")
    assert "invoices" in caught.value.todo


@pytest.mark.parametrize(
    ("url", "secret"),
    [
        ("postgresql+psycopg2://vera:hunter2@host/db", True),
        ("postgresql+psycopg2://vera@host/db?password=hunter2", True),
        ("postgresql+psycopg2://vera@host:5432/db", False),
        ("sqlite:////srv/a:b.sqlite", False),
    ],
)
def test_passwords_do_not_belong_into_settings(url: str, secret: bool) -> None:
    assert has_password(url) == secret
    if secret:
        error = refused(SOURCE.replace("sqlite:////srv/business.sqlite", url))
        assert "holds a password" in error.what
        assert "hunter" not in str(error) + str(error.to_json())


def test_the_url_comes_from_the_environment_and_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    text = SOURCE.replace('url = "sqlite:////srv/business.sqlite"', 'url_env = "BUSINESS_URL"')
    settings = Settings.load(written(text))
    with pytest.raises(UsageError, match="BUSINESS_URL is not set"):
        settings.source("invoices").database_url()
    monkeypatch.setenv("BUSINESS_URL", "postgresql://u:hunter2@h/d")
    assert settings.source("invoices").database_url().endswith("hunter2@h/d")
    assert "hunter" not in repr(settings) + settings.model_dump_json()


def test_the_complete_example_of_the_documentation_is_complete(tmp_path: Path) -> None:
    text = DOCUMENT.read_text()
    example = re.search(r"```toml\n(# vera\.toml.*?)```", text, re.DOTALL)
    assert example is not None
    settings = Settings.load(written(example[1]))
    assert {source.content.kind for source in settings.sources.values()} == set(ContentKind)
    shown: dict[str, Any] = tomllib.loads(example[1])
    assert set(shown) == set(Settings.model_fields)
    keys = {key for source in shown["sources"].values() for key in source}
    assert keys | {"url"} == {field.name for field in dataclasses.fields(SourceSettings)}
    assert set(shown["erasure_table"]) | {"url"} == {field.name for field in dataclasses.fields(ErasureTable)}
    names = {field.name for field in dataclasses.fields(KeySettings)}
    assert set(shown["keys"]) | {"token_env", "file"} == names
    for name in (*Settings.model_fields, *keys, *shown["erasure_table"], *names, *TimeType, *OnRejects):
        assert f"`{name}`" in text, name
