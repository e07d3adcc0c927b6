"""Trains a SentencePiece vocabulary on a text and writes it as a GGUF file, as converters for llama.cpp do.

python make_spm.py TEXT FILE.gguf

Prints a JSON list of cases: a text, the ids that SentencePiece gives, and the text that it makes of them.
"""

import io
import json
import sys

import gguf
import numpy as np
import sentencepiece as spm

CASES = [
    "Hello world",
    "It is a truth universally acknowledged, that a single man in possession of a good fortune",
    " leading space",
    "two  spaces,   three",
    "numbers 1815 and 3.14",
    "naïve café – “quoted” 東京 🦀",
    "line\nbreak\n\ntab\tend",
    "aaaaaaaaaaaaaaaa bbbbbb",
    "",
]


def main():
    text, path = sys.argv[1:]
    model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        input=text, model_writer=model, model_type="bpe", vocab_size=1500, byte_fallback=True,
        character_coverage=0.9995, normalization_rule_name="identity", remove_extra_whitespaces=False,
        split_digits=True, max_sentence_length=100000, minloglevel=2,
    )
    sp = spm.SentencePieceProcessor(model_proto=model.getvalue())
    count = sp.vocab_size()
    pieces = [sp.id_to_piece(i) for i in range(count)]
    kinds = [
        6 if sp.is_byte(i) else 2 if sp.is_unknown(i) else 3 if sp.is_control(i) else 1
        for i in range(count)
    ]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(16)
    writer.add_embedding_length(4)
    writer.add_feed_forward_length(4)
    writer.add_head_count(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(pieces)
    writer.add_token_scores([sp.get_score(i) for i in range(count)])
    writer.add_token_types(kinds)
    writer.add_bos_token_id(sp.bos_id())
    writer.add_eos_token_id(sp.eos_id())
    writer.add_unk_token_id(sp.unk_id())
    writer.add_tensor("token_embd.weight", np.zeros((count, 4), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    cases = [dict(text=t, ids=sp.encode(t), decoded=sp.decode(sp.encode(t))) for t in CASES]
    print(json.dumps(cases))


if __name__ == "__main__":
    main()
