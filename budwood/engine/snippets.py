"""The programs that a model card shows: how to use a bundle's folder without Budwood. Tests run them as they are."""

__all__ = ["BOXES", "ONNX", "PIPELINES", "TORCH"]

HEAD = """\
import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

folder = Path(".")
facts = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
tokenizer = AutoTokenizer.from_pretrained(folder)
encoder = AutoModel.from_pretrained(folder).eval()
head = load_file(folder / "head.safetensors")

texts = ["first text", "second text"]
limit = facts["task"]["max_tokens"]
batch = tokenizer(texts, padding=True, truncation=True, max_length=limit, return_tensors="pt")
with torch.inference_mode():
    states = encoder(**batch).last_hidden_state
"""
TAIL = """\
{normalize}logits = embedding @ head["weight"].T + head["bias"]
logits = logits / facts["calibration"].get("temperature", 1.0)
several = facts["task"]["multi_label"]
probabilities = logits.sigmoid() if several else logits.softmax(-1)
for text, row in zip(texts, probabilities):
    print(text, facts["task"]["labels"][int(row.argmax())], float(row.max()))
"""
MEAN = """\
mask = batch["attention_mask"].unsqueeze(-1)
embedding = (states * mask).sum(1) / mask.sum(1)
"""
TORCH = {"mean": HEAD + MEAN + TAIL, "cls": HEAD + "embedding = states[:, 0]\n" + TAIL}
"""By the kind of pooling; `{normalize}` is a line or nothing."""

BOXES = """\
import json
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

folder = Path(".")
facts = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
frame = json.loads((folder / "detector.json").read_text(encoding="utf-8"))["frame"]
session = onnxruntime.InferenceSession(folder / "onnx/model.onnx", providers=["CPUExecutionProvider"])

image = ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGB")
size, sides = frame["size"], np.array(image.size)
inner = np.array([size, size])
if frame["letterbox"]:
    inner = np.maximum(1, np.round(sides * size / sides.max())).astype(int)
left, top = (size - inner) // 2
square = np.full((size, size, 3), 114, np.uint8)
square[top : top + inner[1], left : left + inner[0]] = image.resize(tuple(inner.tolist()), frame["resample"])
pixels = (square * np.array(frame["factor"]) + np.array(frame["summand"])).transpose(2, 0, 1)[None]
logits, boxes = session.run(["logits", "boxes"], {"pixel_values": pixels.astype(np.float32)})
scores = 1 / (1 + np.exp(-logits[0]))
boxes = ((boxes[0] - [left, top] * 2) / np.tile(inner / sides, 2)).clip(0, np.tile(sides, 2))
kept = []
for place in np.argsort(-scores.max(axis=1)):
    label, score, box = int(scores[place].argmax()), float(scores[place].max()), boxes[place]
    if score < facts["calibration"].get("threshold", 0.5):
        break
    for other_label, _, other in kept:
        wide, high = np.minimum(box, other)[2:] - np.maximum(box, other)[:2]
        shared = max(wide, 0) * max(high, 0)
        both = np.prod(box[2:] - box[:2]) + np.prod(other[2:] - other[:2]) - shared
        if shared > (OVERLAP if label == other_label else SAME_PLACE) * both:
            break
    else:
        kept.append((label, score, box))
for label, score, box in kept:
    print(facts["task"]["labels"][label], round(score, 3), box.round(1).tolist())
"""

ONNX = """\
import json
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

folder = Path(".")
facts = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
tokenizer.no_padding()
tokenizer.enable_truncation(facts["task"]["max_tokens"])
session = onnxruntime.InferenceSession(folder / "{graph}", providers=["CPUExecutionProvider"])

text = "first text"
ids = tokenizer.encode(text)
known = {{"input_ids": ids.ids, "attention_mask": ids.attention_mask, "token_type_ids": ids.type_ids}}
inputs = {{item.name: np.array([known[item.name]]) for item in session.get_inputs()}}
(logits,) = session.run(["logits"], inputs)[0] / facts["calibration"].get("temperature", 1.0)
several = facts["task"]["multi_label"]
shifted = np.exp(logits - logits.max())
probabilities = 1 / (1 + np.exp(-logits)) if several else shifted / shifted.sum()
print(text, facts["task"]["labels"][int(probabilities.argmax())], float(probabilities.max()))
"""

PIPELINES = {
    "text-generation": """\
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(".")
model = AutoModelForCausalLM.from_pretrained(".").eval()

torch.manual_seed(0)
start = torch.tensor([[model.config.bos_token_id, *tokenizer("Once upon a time", add_special_tokens=False).input_ids]])
known = torch.ones_like(start)
ids = model.generate(start, attention_mask=known, max_new_tokens=50, do_sample=True, temperature=0.7, top_k=0)
print(tokenizer.decode(ids[0], skip_special_tokens=True))
""",
    "image-classification": """\
import json
from pathlib import Path

import torch
from PIL import Image, ImageOps
from transformers import AutoImageProcessor, AutoModelForImageClassification

folder = Path(".")
facts = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
model = AutoModelForImageClassification.from_pretrained(folder).eval()

image = ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGB")
with torch.inference_mode():
    (logits,) = model(**processor(image, return_tensors="pt")).logits
probabilities = (logits / facts["calibration"].get("temperature", 1.0)).softmax(-1)
print(model.config.id2label[int(probabilities.argmax())], float(probabilities.max()))
""",
    "image-feature-extraction": """\
import json
from pathlib import Path

import torch
from PIL import Image, ImageOps
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoModelForImageClassification

folder = Path(".")
facts = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
task, fitted = facts["task"], facts["calibration"]
processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
model = AutoModelForImageClassification.from_pretrained(folder).eval()

image = ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGB")
with torch.inference_mode():
    (outputs,) = model(**processor(image, return_tensors="pt")).logits
if (folder / "head.safetensors").exists():  # what transformers gives is a hidden layer then
    head = load_file(folder / "head.safetensors")
    outputs = head["weight"] @ outputs.relu() + head["bias"]
if task["kind"] == "number":
    value = task["centre"] + task["scale"] * outputs[0]
    print(float(value.exp() if task["log"] else value))
else:  # the risk of one event, or of an event by the end of each period
    hazards = (fitted.get("slope", 1.0) * outputs + fitted.get("offset", 0.0)).sigmoid()
    print((1 - (1 - hazards).cumprod(0)).tolist())
""",
}
"""By pipeline tag, for the models that transformers knows whole."""
