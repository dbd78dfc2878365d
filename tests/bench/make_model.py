"""Writes a GGUF file's model in another weight type, for measurements in formats a file does not come in.

Usage: make_model.py SOURCE.gguf TYPE OUT.gguf      TYPE: F32, F16, BF16, Q8_0, Q4_0, Q4_1
Needs the Python package gguf. Norms stay F32; what cannot be cut into blocks of 32 stays F32 too."""
import sys

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf import GGUFValueType as Value


def copy_metadata(reader, writer):
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name in ("general.architecture", "general.file_type"):
            continue
        kind = field.types[0]
        item = field.types[-1] if kind == Value.ARRAY else None
        writer.add_key_value(field.name, field.contents(), kind, sub_type=item)


def main(source, name, out):
    reader = gguf.GGUFReader(source)
    arch = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(out, arch)
    copy_metadata(reader, writer)
    want = Type[name]
    for tensor in reader.tensors:
        data = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        matrix = len(tensor.shape) > 1 and data.shape[-1] % 32 == 0
        kind = want if matrix else Type.F32
        writer.add_tensor(tensor.name, gguf.quants.quantize(data, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    if len(sys.argv) != 4 or sys.argv[2] not in Type.__members__:
        sys.exit(__doc__)
    main(*sys.argv[1:])
