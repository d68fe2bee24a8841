"""Put mechanisms into a language model, generate, save it and load it again.

    python examples/quickstart.py

The model is not trained, so what it generates means nothing; `headway compare` trains some.
"""

import tempfile

import torch
from transformers import AutoModelForCausalLM

from headway import HeadwayConfig, HeadwayForCausalLM, KVShift, SelectiveAttention


def main() -> None:
    torch.manual_seed(0)
    config = HeadwayConfig(vocab_size=512, mechanisms=[KVShift(), SelectiveAttention()])
    model = HeadwayForCausalLM(config).eval()
    parameters = model.num_parameters()
    plain = HeadwayForCausalLM(HeadwayConfig(vocab_size=512)).num_parameters()
    print(f"{parameters:,} parameters, {parameters - plain:,} of them in the mechanisms")
    print("mechanisms of layer 0:", model.model.layers[0].self_attn.mechanisms.members)

    prompt = torch.tensor([[1, 2, 3, 4, 1, 2, 3]])
    generated = model.generate(prompt, max_new_tokens=8, do_sample=False)
    print("prompt and generated tokens:", generated[0].tolist())

    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        # `import headway` has told transformers what a model of type "headway" is.
        loaded = AutoModelForCausalLM.from_pretrained(folder).eval()
    again = loaded.generate(prompt, max_new_tokens=8, do_sample=False)
    print("mechanisms of the loaded model:", loaded.config.mechanism_list())
    print("the loaded model generates the same:", torch.equal(generated, again))


if __name__ == "__main__":
    main()
