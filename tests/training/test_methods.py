"""Every method over two families: it trains, saves, reloads to equal logits, and merges where it can."""

from __future__ import annotations

import json
import shutil
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file

from malmoi.pipeline.errors import MalmoiError, RecipeError
from malmoi.training.attention import PACKED, boundaries, document_starts, positions
from malmoi.training.methods import MERGEABLE
from malmoi.training.model import build_model, load_model, parameter_counts, save_model
from malmoi.training.recipe import MethodSettings, ModelSettings, ModelShape

VOCAB, LENGTH = 256, 24

METHODS = {
    "full": (MethodSettings(kind="full"), 5e-3),
    "lora": (MethodSettings(kind="lora", rank=8), 1e-2),
    "qlora": (MethodSettings(kind="qlora", rank=8), 1e-2),
    "dora": (MethodSettings(kind="dora", rank=8), 1e-2),
    "prefix": (MethodSettings(kind="prefix", num_virtual_tokens=4), 1e-1),
    "prefix-mlp": (MethodSettings(kind="prefix", num_virtual_tokens=4, reparameterization="mlp"), 1e-2),
    "prompt": (MethodSettings(kind="prompt", num_virtual_tokens=4), 3e-1),
    "p_tuning-mlp": (MethodSettings(kind="p_tuning", num_virtual_tokens=4), 5e-2),
    "p_tuning-lstm": (MethodSettings(kind="p_tuning", num_virtual_tokens=4, reparameterization="lstm"), 5e-2),
    "llama_adapter": (MethodSettings(kind="llama_adapter", num_virtual_tokens=4, adapter_layers=2), 5e-2),
    "ia3": (MethodSettings(kind="ia3"), 1e-1),
    "bottleneck": (MethodSettings(kind="bottleneck", bottleneck_size=8), 1e-2),
}
CASES = [
    (family, name)
    for family in ("llama", "qwen3")
    for name in METHODS
    if (family, name) != ("qwen3", "llama_adapter")
]


def shape(family: str) -> ModelShape:
    # In real Qwen3 models head_dim is not hidden_size / num_heads.
    return ModelShape(
        family=family, hidden_size=32, intermediate_size=64, num_layers=2, num_heads=4, num_kv_heads=2,
        head_dim=16 if family == "qwen3" else None, vocab_size=VOCAB, max_positions=64,
        tie_embeddings=family == "qwen3",
    )  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A saved model of each family."""
    made = {}
    for family in ("llama", "qwen3"):
        folder = tmp_path_factory.mktemp(family)
        settings = ModelSettings(config=shape(family), dtype="float32")
        model = build_model(settings, MethodSettings(), "cpu", seed=3)
        with torch.no_grad():  # as small as weights are at the start, no prompt would reach the output
            for parameter in model.parameters():
                parameter.mul_(5.0 if parameter.ndim == 2 else 1.0)
        save_model(model, MethodSettings(), folder)
        made[family] = str(folder)
    return made


def rows(seed: int) -> torch.Tensor:
    return torch.randint(0, VOCAB, (4, LENGTH), generator=torch.Generator().manual_seed(seed))


def logits(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits[:, -ids.shape[1] :].float()


def train(model: torch.nn.Module, lr: float, steps: int, autocast: bool = False) -> list[float]:
    """Losses on one batch, which is to be learned by heart."""
    ids = rows(0)
    trained = [x for x in model.parameters() if x.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=lr, weight_decay=0.0)
    losses = []
    for _ in range(steps):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(trained, 1.0)
        assert norm > 0
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize(("family", "name"), CASES, ids=[f"{f}-{n}" for f, n in CASES])
def test_trains_saves_and_reloads(folders, tmp_path, family, name):
    method, lr = METHODS[name]
    settings = ModelSettings(path=folders[family], dtype="float32")
    model = build_model(settings, method, "cpu", seed=1, vocab_size=VOCAB)
    assert all(x.dtype == torch.float32 for x in model.parameters() if x.requires_grad)
    trained, total = parameter_counts(model)
    assert (trained == total) == (method.kind == "full")
    assert 0 < trained < total or method.kind == "full"

    losses = train(model, lr, 25)
    assert losses[-1] < losses[0] - 0.03, losses

    model.eval()
    want = logits(model, rows(7))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_model(model, method, tmp_path / "saved")
    loaded = load_model(settings, method, tmp_path / "saved", "cpu")
    assert not any(x.requires_grad for x in loaded.parameters())
    # What an encoder made of the virtual tokens is saved, not the encoder; a row more or less in it rounds otherwise.
    encoded = name in ("prefix-mlp", "p_tuning-mlp", "p_tuning-lstm")
    assert torch.allclose(logits(loaded, rows(7)), want, rtol=0, atol=1e-5 if encoded else 0)
    base = logits(load_model(settings, MethodSettings(), folders[family], "cpu"), rows(7))
    assert not torch.allclose(base, want, atol=1e-3), "the method changed nothing"
    if method.kind in MERGEABLE and method.kind != "qlora":
        merged = loaded.merge_and_unload()
        assert torch.allclose(logits(merged, rows(7)), want, atol=1e-5)


def test_without_a_touched_generator_the_seed_decides(folders):
    settings = ModelSettings(config=shape("llama"), dtype="bfloat16")
    lora = METHODS["lora"][0]
    torch.manual_seed(11)
    state = torch.random.get_rng_state()
    one, same, other = (build_model(settings, lora, "cpu", seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("name", [x for x in METHODS if x != "full"])
def test_bfloat16_base_under_autocast(folders, name):
    """As the loop trains: what is frozen is bfloat16 or 4 bits, what is trained float32."""
    method, lr = METHODS[name]
    model = build_model(ModelSettings(path=folders["llama"]), method, "cpu")
    dtypes = {x.dtype for x in model.parameters() if not x.requires_grad}
    assert dtypes == {torch.bfloat16}
    losses = train(model, lr, 6, autocast=True)
    assert losses[-1] < losses[0]


def test_quantised_in_place_as_from_a_file(folders):
    """Random weights are quantised by us, a file's by transformers: the same numbers come out."""
    from malmoi.training.quantise import quantise

    qlora = METHODS["qlora"][0]
    read = build_model(ModelSettings(path=folders["llama"], dtype="float32"), qlora, "cpu").get_base_model()
    plain = load_model(
        ModelSettings(path=folders["llama"], dtype="float32"), MethodSettings(), folders["llama"], "cpu"
    )
    quantise(plain, qlora, torch.float32, torch.device("cpu"))
    assert "Params4bit" in {type(x).__name__ for x in plain.parameters()}
    assert torch.equal(logits(plain.eval(), rows(7)), logits(read.eval(), rows(7)))
    made = build_model(ModelSettings(config=shape("qwen3"), dtype="float32"), qlora, "cpu")
    assert train(made, 1e-2, 3)[-1] > 0


def test_evaluation_leaves_four_bit_weights_alone(folders):
    model = build_model(ModelSettings(path=folders["llama"], dtype="float32"), METHODS["qlora"][0], "cpu")
    before = logits(model.train(), rows(7))
    assert torch.equal(logits(model.eval(), rows(7)), before)
    assert torch.equal(logits(model.train(), rows(7)), before)


@pytest.mark.parametrize("name", ["bottleneck", "prefix", "p_tuning-mlp", "llama_adapter", "dora"])
def test_generates(folders, name):
    settings = ModelSettings(path=folders["llama"], dtype="float32")
    model = build_model(settings, METHODS[name][0], "cpu").eval()
    ids = rows(0)[:1]
    out = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=5, do_sample=False, pad_token_id=0
    )
    step = logits(model, ids)[0, -1].argmax()
    assert out.shape[1] in (5, ids.shape[1] + 5)
    assert int(out[0, -5]) == int(step)


@pytest.mark.parametrize("name", ["lora", "dora", "ia3", "bottleneck", "llama_adapter"])
def test_packed_documents_stay_apart(folders, name):
    method, _ = METHODS[name]
    model = build_model(
        ModelSettings(path=folders["llama"], dtype="float32", attention="packed"), method, "cpu"
    )
    assert model.config._attn_implementation == PACKED
    starts = document_starts([[0, 9]], LENGTH)
    ids = rows(0)[:1]

    def out(x: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
        return model(
            input_ids=x, position_ids=positions(first), boundaries=boundaries(first), use_cache=False
        ).logits  # fmt: skip

    both = out(ids, starts)
    alone = out(ids[:, 9:], document_starts([[0]], LENGTH - 9))
    assert torch.allclose(both[:, 9:], alone, atol=1e-5)


@pytest.mark.parametrize("family", ["mistral", "qwen2", "olmo2", "smollm3", "exaone4", "gemma3_text"])
def test_the_other_families_build(tmp_path, family):
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        family, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, vocab_size=VOCAB, max_position_embeddings=64, bos_token_id=None,
        eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(tmp_path)
    for name in ("full", "lora", "prefix", "ia3", "bottleneck"):
        model = build_model(ModelSettings(path=str(tmp_path), dtype="float32"), METHODS[name][0], "cpu")
        hidden = model.get_base_model() if hasattr(model, "get_base_model") else model
        assert len(train(model, 1e-3, 2)) == 2
        assert type(hidden.lm_head).__name__ == "Linear"


def test_errors_before_anything_loads(folders, tmp_path, monkeypatch):
    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError("loaded")

    monkeypatch.setattr("malmoi.training.model.build_base", never)

    def error(path: object, kind: str = "full", **keys: object) -> str:
        given = {"attention": keys.pop("attention", "sdpa")}
        method, vocab = MethodSettings(kind=kind, **keys), 300 if kind == "prompt" else None
        with pytest.raises(RecipeError) as caught:
            build_model(ModelSettings(path=str(path), **given), method, "cpu", vocab_size=vocab)
        return str(caught.value)

    assert "no such folder" in error("meta-llama/Llama-3.1-8B")
    assert "nothing is ever downloaded" in error("meta-llama/Llama-3.1-8B")
    llama = tmp_path / "llama"
    shutil.copytree(folders["llama"], llama)
    (llama / "model.safetensors").rename(llama / "pytorch_model.bin")
    assert "no weights" in error(llama)
    assert "pickle" in error(llama)
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (llama / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "2 of 2 weight files missing" in error(llama)
    config = json.loads((llama / "config.json").read_text())
    (llama / "config.json").write_text(json.dumps({**config, "model_type": "mamba"}))
    assert "'mamba' is not known; known: llama" in error(llama)
    (llama / "config.json").write_text(json.dumps({**config, "quantization_config": {}}))
    assert "quantised already" in error(llama)
    (llama / "config.json").write_text("{")
    assert "not JSON" in error(llama)
    (llama / "config.json").unlink()
    assert "no config.json" in error(llama)
    assert "llama_adapter is for llama, mistral, this is qwen3" in error(folders["qwen3"], "llama_adapter")
    assert "has 2 layers" in error(folders["llama"], "llama_adapter", adapter_layers=3)
    assert "target_modules: c_attn; known" in error(folders["llama"], "lora", target_modules=("c_attn",))
    assert "256 token embeddings, but the rows hold ids up to 299" in error(folders["llama"], "prompt")
    (llama / "config.json").write_text(json.dumps({**config, "head_dim": 16}))
    (llama / "model.safetensors.index.json").unlink()
    (llama / "pytorch_model.bin").rename(llama / "model.safetensors")
    assert "needs head_dim = hidden_size / num_attention_heads = 8, the model has 16" in error(
        llama, "llama_adapter"
    )
    (llama / "config.json").write_text(json.dumps({**config, "model_type": "mistral", "sliding_window": 8}))
    assert "sliding window" in error(llama, attention="packed")
    capped = {**config, "model_type": "gemma3_text", "final_logit_softcapping": 30.0}
    (llama / "config.json").write_text(json.dumps(capped))
    assert "caps its logits" in error(llama)


def test_a_weight_that_no_file_holds(folders, tmp_path):
    shutil.copytree(folders["llama"], tmp_path, dirs_exist_ok=True)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RecipeError, match=r"1 weights are missing, first model\.layers\.1\.mlp\.up_proj"):
        build_model(ModelSettings(path=str(tmp_path)), MethodSettings(), "cpu")


def test_adapters_of_another_size(folders, tmp_path):
    settings = ModelSettings(path=folders["llama"], dtype="float32")
    method = METHODS["bottleneck"][0]
    with pytest.raises(MalmoiError, match="no such folder"):
        load_model(settings, method, tmp_path / "none", "cpu")
    with pytest.raises(MalmoiError, match=r"no bottleneck\.safetensors"):
        load_model(settings, method, tmp_path, "cpu")
    with pytest.raises(MalmoiError, match=r"no adapter_config\.json"):
        load_model(settings, METHODS["lora"][0], tmp_path, "cpu")
    save_model(build_model(settings, method, "cpu"), method, tmp_path)
    with pytest.raises(MalmoiError, match="made for another model or size"):
        load_model(settings, MethodSettings(kind="bottleneck", bottleneck_size=4), tmp_path, "cpu")


def test_scales_of_ia3_do_not_decay(folders):
    """They start at 1: decay would switch keys and values off."""
    from malmoi.training.optim import parameter_groups

    settings = ModelSettings(path=folders["llama"], dtype="float32")
    ia3, lora = (build_model(settings, METHODS[name][0], "cpu") for name in ("ia3", "lora"))
    assert [group["weight_decay"] for group in parameter_groups(ia3, 0.1)] == [0.0]
    assert [group["weight_decay"] for group in parameter_groups(lora, 0.1)] == [0.1]


def test_dropout_where_there_is_none():
    for kind, more in (("p_tuning", {"reparameterization": "mlp"}), ("prefix", {})):
        with pytest.raises(ValueError, match="dropout"):
            MethodSettings(kind=kind, dropout=0.1, **more)
    MethodSettings(kind="p_tuning", reparameterization="lstm", dropout=0.1)
