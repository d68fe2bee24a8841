"""What importing the package does and does not do."""

import subprocess
import sys

CODE = """
import sys
import transformers.cache_utils, transformers.modeling_layers, transformers.modeling_outputs
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, GenerationMixin
before = set(sys.modules)
import headway
config = AutoConfig.for_model("headway", vocab_size=11, hidden_size=8, num_attention_heads=2)
print(type(AutoModelForCausalLM.from_config(config)).__name__)
print(*sorted({name.partition(".")[0] for name in set(sys.modules) - before}))
"""
OPTIONAL = {"tyro", "rich", "plotly", "jinja2", "scipy", "datasets", "zstandard", "tokenizers"}


def test_import_needs_torch_and_transformers_alone_and_registers_the_model() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    model, imported = done.stdout.splitlines()
    assert model == "HeadwayForCausalLM"
    assert "headway" in imported.split()
    assert not OPTIONAL & set(imported.split())
