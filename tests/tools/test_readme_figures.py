"""README's figures are those of the published results."""

from benchmarks.readme_figures import PART, PARTS, README, with_figures


def test_the_figures_are_those_of_the_results() -> None:
    text = README.read_text()
    assert with_figures(text) == text, "run make readme-figures"


def test_every_part_stands_in_readme_once() -> None:
    assert sorted(match[1] for match in PART.finditer(README.read_text())) == sorted(PARTS)
