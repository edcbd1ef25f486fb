"""Terms are explained where they stand, once each, and text stays what it was."""

from __future__ import annotations

from markupsafe import Markup

from mspgt_tl.dashboard.glossary import GLOSSARY, explain
from mspgt_tl.signals.cka_variants import MASKED_OVER


def test_massive_channels_are_those_that_the_audit_masks() -> None:
    """The meaning takes its factor from the audit."""
    assert (
        GLOSSARY["massive channels"] == f"Channels whose magnitude exceeds {MASKED_OVER:.0f} times the layer's median."
    )


def test_a_term_is_marked_at_its_first_place_only() -> None:
    """The second mention stays plain, and what is no term does, too."""
    mark = f'<span class="term" tabindex="0" data-meaning="{GLOSSARY["JSD"]}">JSD</span>'
    assert explain("JSD and JSD, not JSDs") == Markup(f"{mark} and JSD, not JSDs")


def test_p_is_a_term_before_a_number_alone() -> None:
    """A letter in running text may be anything."""
    assert "data-meaning" in explain("p = 0.2") and "data-meaning" in explain("p")
    assert explain("top p of it") == "top p of it"


def test_text_is_escaped_and_markup_is_left_alone() -> None:
    """Angle brackets of a name become text; markup comes back as it is."""
    assert explain("<b>") == "&lt;b&gt;"
    assert explain(Markup("<b>CKA</b>")) == "<b>CKA</b>"
