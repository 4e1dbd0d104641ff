"""``docs/settings.md`` says of every setting what the code says."""

from pathlib import Path

from pydantic.fields import FieldInfo

from service.cli_processes import CLIENT_VARIABLES
from worker.settings import PREFIX, Settings

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"


def shown_default(field: FieldInfo) -> str:
    if field.default_factory is not None or field.default is None:
        return "empty" if field.default_factory is None else "`~/.local/share/snapcycle`"
    return f"`{field.default:g}`" if isinstance(field.default, float) else f"`{field.default}`"


def test_every_setting_stands_in_the_documentation_with_its_default_and_meaning() -> None:
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith(f"| `{PREFIX}")]
    expected = [
        f"| `{PREFIX}{name.upper()}` | {shown_default(field)} | {field.description} |" for name, field in Settings.model_fields.items()
    ]
    of_the_client = [row for row in rows if row.startswith(tuple(f"| `{name}`" for name in CLIENT_VARIABLES))]
    assert len(of_the_client) == len(CLIENT_VARIABLES), "the client's variables are documented too"
    assert [row for row in rows if row not in of_the_client] == expected
