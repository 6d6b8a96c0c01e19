"""Every intermediate tensor of a model, under the names that the public fixtures give them."""

import json

import numpy as np
import torch
from torch import Tensor

from l2g.modeling.boxes import inverse_sigmoid
from l2g.modeling.position import box_embedding
from tests import golden


def close(name, actual: Tensor, expected: np.ndarray, atol: float = 1e-4):
    np.testing.assert_allclose(actual.detach().numpy(), expected, rtol=0, atol=atol, err_msg=name)


def run(model, images: Tensor) -> dict[str, Tensor]:
    """Every intermediate tensor that a fixture may hold, under the fixture's names."""
    out: dict[str, Tensor] = {}
    hooks = [
        layer.register_forward_hook(lambda _, __, result, key=f"enc.layer.{i}": out.update({key: result}))
        for i, layer in enumerate(model.encoder.layers)
    ]
    for i, layer in enumerate(model.decoder.layers):
        hooks.append(layer.register_forward_hook(lambda _, __, result, i=i: out.update({f"dec.layer.{i}.out": result})))
        hooks.append(
            layer.register_forward_pre_hook(
                lambda _, args, i=i: out.update({f"dec.layer.{i}.query_pos": args[1], f"dec.refpoints.{i}": args[2]})
            )
        )
    hooks.append(
        model.proposals.norm.register_forward_hook(lambda _, __, r: out.update({"two_stage.output_memory": r}))
    )
    hooks.append(model.encoder.register_forward_pre_hook(lambda _, args: out.update({"features": args[0]})))
    with torch.no_grad():
        memory = model.encode_normalised(images)
        decoded = model.decode(memory, deep=True)
    for hook in hooks:
        hook.remove()
    for level, feature in enumerate(out.pop("features")):
        out[f"backbone.res{level + 2}"] = feature
    tokens = memory.tokens.split([h * w for h, w in memory.shapes], dim=1)
    for level, (token, shape) in enumerate(zip(tokens[::-1], memory.shapes[::-1], strict=True)):
        out[f"enc.out.{level}"] = token.transpose(1, 2).unflatten(2, shape)
    local = decoded.local
    out["mask_features"] = memory.mask_features
    scores = model.heads.class_embed(out["two_stage.output_memory"]).amax(-1)
    out["two_stage.max_logits"] = scores
    out["two_stage.topk_values"] = scores.gather(1, local.indices)
    out["dec.in.tgt"], out["dec.in.refpoints_unsig"] = local.queries, inverse_sigmoid(local.boxes)
    out["interm.pred_logits"], out["interm.pred_masks"] = local.logits, local.mask_logits
    out["interm.pred_boxes"] = model.heads.boxes(local.features, local.anchors)
    out["aux.0.pred_logits"] = model.heads.logits(local.queries)
    out["aux.0.pred_boxes"] = local.boxes
    for i, prediction in enumerate(decoded.layers[:-1]):
        out[f"aux.{i + 1}.pred_logits"], out[f"aux.{i + 1}.pred_boxes"] = prediction.logits, prediction.boxes
    out["pred_logits"], out["pred_boxes"] = decoded.output.logits, decoded.output.boxes
    out["pred_masks"], out["topk"] = decoded.output.mask_logits, local.indices
    for i in range(len(model.decoder.layers)):
        out[f"dec.hs.{i}"] = model.heads.norm(out[f"dec.layer.{i}.out"])
    out["dec.layer.0.query_sine_embed"] = box_embedding(out["dec.refpoints.0"], 256)
    return out


def normalised(golden_fixture, model) -> Tensor:
    """The fixture's image, normalised, then padded with zero to a multiple of 32 as the public code does."""
    image = torch.from_numpy(golden_fixture["image"]).permute(2, 0, 1)[None].float()
    h, w = image.shape[-2:]
    return torch.nn.functional.pad((image - model.mean) / model.std, (0, -w % 32, 0, -h % 32))


def backbone_tensors(model, images):
    """The fixtures' `swin.*`: tokens after a block, and what the attention of a block gives."""
    out, hooks = {}, []
    backbone = model.backbone

    def keep(key, change=lambda x: x):
        return lambda _, __, result: out.update({key: change(result)})

    hooks.append(backbone.patch_embed.register_forward_hook(keep("swin.patch_embed", lambda x: x.permute(0, 3, 1, 2))))
    for i, stage in enumerate(backbone.layers):
        for j, block in enumerate(stage.blocks):
            key = f"swin.layers.{i}.blocks.{j}"
            hooks.append(block.register_forward_hook(keep(key, lambda x: x.flatten(1, 2))))
            hooks.append(block.attn.register_forward_hook(keep(f"{key}.attn", lambda x: x.flatten(0, 1))))
        if stage.downsample is not None:
            key = f"swin.layers.{i}.downsample"
            hooks.append(stage.downsample.register_forward_hook(keep(key, lambda x: x.flatten(1, 2))))
    with torch.no_grad():
        backbone(images)
    for hook in hooks:
        hook.remove()
    return out


def swin_l_listing():
    return json.loads((golden.SWIN / "state_dict_swin_l.json").read_text())
