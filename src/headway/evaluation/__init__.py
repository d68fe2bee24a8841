"""Tasks of the Language Model Evaluation Harness (the package lm_eval) with models of Headway."""
