"""Theory: what the paper derives, as estimators with a known answer and a stated domain (docs/theory.md)."""
