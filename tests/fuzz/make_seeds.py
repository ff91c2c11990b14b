#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the first inputs of the fuzz targets: make_seeds.py FOLDER makes FOLDER/TARGET/seed-NAME for every target.

The corpora in tests/fuzz/corpus are what libFuzzer kept of these and found from them (make fuzz-merge).
"""
import gzip
import hashlib
import json
import os
import struct
import sys


def config():
    """Command line, blank line, INI file."""
    yield "empty", b""
    yield "args", b"--run.output=out\n--data.shards=shards\n--sharing.fraction\n0.4\n--model.blocks_down=1,2,2\n"
    yield "file", (
        b"[run]\noutput = out ; a comment\npreset = svt\nseed = 9007199254740991\n\n[data]\nshards = shards\n"
        b"patch = 16x32x32\n# more\n[privacy]\nclip = inf\nepsilon_answer = 1e15\nclip_answers = no\n"
    )
    yield "both", (b"--run.output=a b\n--run.preset=percentile\n\n"
                   b"[model]\nfilters = 16\nblocks_down = 1\n[eval]\nwindow=24\n")
    yield "full-list", b"[plan]\ncases = " + b",".join([b"1"] * 64) + b"\n"
    yield "long-list", b"--plan.cases=" + b",".join([b"1"] * 65) + b"\n"
    yield "filters", b"[model]\nfilters = 12\n[run]\noutput=o\n[data]\nshards=s\n"
    yield "levels", b"--run.output=o\n--data.shards=s\n--model.blocks_down=1,1,1,1,1,1,1\n"
    yield "up", b"--run.output=o\n--data.shards=s\n--model.blocks_up=1\n"
    yield "long-text", b"--run.output=" + b"x" * 1024 + b"\n"
    yield "help", b"--help\n"
    yield "digits", b"--run.output=o\n--data.shards=s\n--privacy.delta=0.12345678901234567\n"
    yield "blank-ends", b"--run.output= o\n--data.shards=s \n"
    yield "semicolon", b"--run.output=a ;b\n--data.shards=s\n"
    yield "zero", b"[run]\nseed = 1\0 2"
    yield "published", b"--run.preset=svt-as-published\n--privacy.delta=0\n--federation.rounds=7\n"
    yield "unknown", b"--privacy.epsilom_query=1\n"
    yield "twice", b"[train]\nepochs = 2\nepochs = 3\n"
    yield "junk", b"[train]\nepochs = 2x\nlearning_rate = nan\n"
    yield "no-key", b"[train\nepochs\n"
    yield "long", b"[run]\noutput = " + b"x" * 190 + b"\n"
    yield "dash", b"-x\n"
    yield "bom", b"\xef\xbb\xbf[comm]\ntimeout_s = 0.5\n"


def nifti_bytes(shape=(2, 3, 2), datatype=16, order="<", data=None, **changes):
    """One volume (x, y, z) with its header; `changes` are fields by name."""
    bits = {2: 8, 4: 16, 8: 32, 16: 32, 64: 64, 512: 16}[datatype]
    field = {"sizeof_hdr": 348, "ndim": 3, "bitpix": bits, "vox_offset": 352.0, "slope": 1.0, "inter": 0.0, "units": 2,
             "qform": 0, "sform": 1, "magic": b"n+1\0", "quatern": (0.0, 0.0, 0.0), "qfac": 1.0, **changes}
    head = struct.pack(order + "i35x", field["sizeof_hdr"]) + b"\0"
    head += struct.pack(order + "8h", field["ndim"], *shape, 1, 1, 1, 1)
    head += struct.pack(order + "3f4h", 0, 0, 0, 0, datatype, field["bitpix"], 0)
    head += struct.pack(order + "8f", field["qfac"], 1.0, 1.0, 2.0, 0, 0, 0, 0)
    head += struct.pack(order + "3fhBB", field["vox_offset"], field["slope"], field["inter"], 0, 0, field["units"])
    head += struct.pack(order + "4f2i", 0, 0, 0, 0, 0, 0) + bytes(80 + 24)
    head += struct.pack(order + "2h6f", field["qform"], field["sform"], *field["quatern"], 1, 2, 3)
    head += struct.pack(order + "12f", -1, 0, 0, 90, 0, -1, 0, 239, 0, 0, 1, 0)
    head += bytes(16) + field["magic"]
    assert len(head) == 348
    count = shape[0] * shape[1] * shape[2]
    if data is None:
        letter = {2: "B", 4: "h", 8: "i", 16: "f", 64: "d", 512: "H"}[datatype]
        data = struct.pack(f"{order}{count}{letter}", *range(count))
    return head + bytes(int(field["vox_offset"]) - 348) + data


def headers():
    for datatype in (2, 4, 8, 16, 64, 512):
        yield f"type-{datatype}", dict(datatype=datatype)
    yield "big-endian", dict(order=">", datatype=4, slope=0.5, inter=-1.0)
    yield "offset", dict(vox_offset=368.0)
    yield "qform", dict(qform=1, sform=0, quatern=(0.5, 0.5, 0.5), qfac=-1.0)
    yield "spacing", dict(sform=0)
    yield "no-slope", dict(slope=0.0, inter=5.0)
    yield "seven", dict(ndim=7)
    yield "pair", dict(magic=b"ni1\0")
    yield "nifti-2", dict(sizeof_hdr=540)
    yield "units", dict(units=3)
    yield "nan", dict(inter=float("nan"))


def nifti_header():
    for name, changes in headers():
        yield name, nifti_bytes(**changes)[:348]
    yield "huge", nifti_bytes(shape=(32767, 32767, 32767), data=b"")[:348]


def stored(data):
    """gzip without compression: what changes stays readable up to the checksum."""
    return gzip.compress(data, 0, mtime=0)


def nifti_volume():
    for name, changes in headers():
        yield name, nifti_bytes(**changes)
    volume = nifti_bytes()
    yield "short", volume[:-1]
    yield "long", volume + b"x"
    yield "gz", gzip.compress(volume, 9, mtime=0)
    yield "gz-stored", stored(volume)
    yield "gz-members", stored(volume[:300]) + gzip.compress(volume[300:], 9, mtime=0)
    yield "gz-cut", gzip.compress(volume, 9, mtime=0)[:-9]
    yield "gz-longer", stored(volume + b"x")
    yield "gz-zeros", gzip.compress(nifti_bytes(shape=(41, 41, 41), datatype=2, data=bytes(41**3)), 9, mtime=0)
    yield "gz-liar", gzip.compress(nifti_bytes(shape=(1024, 1024, 256), datatype=64, data=b""), 9, mtime=0)
    yield "gz-big-endian", stored(nifti_bytes(order=">", datatype=64))
    yield "nan-voxel", nifti_bytes(datatype=16, data=struct.pack("<12f", *[float("nan")] * 12))


def partition():
    yield "fets", b"Partition_ID,Subject_ID\n1,Brats18_2013_0_1\n2,Brats18_CBICA_AAB_1\n10,a\n1,b\n"
    yield "all", (b"\xef\xbb\xbfsubject_id,site,grade,split\r\nBrats18_2013_0_1,2013,LGG,train\r\n"
                  b"Brats18_CBICA_AAB_1,CBICA,HGG,test\r\na,X,HGG,validation\r\nb,X,LGG,train\r\n\r\n")
    yield "twice", b"subject_id,site\na,x\na,x\n"
    yield "missing", b"subject_id,partition_id\na,x\n"
    yield "grade", b"subject_id,site,grade\na,x,LGG\n"
    yield "no-column", b"subject_id,grade\na,HGG\n"
    yield "sites", b"subject_id,site\na,A\nBrats18_2013_0_1,2013\nb,B\nBrats18_CBICA_AAB_1,CBICA\n"
    yield "no-train", (b"subject_id,site,split\na,A,test\nBrats18_2013_0_1,2013,train\nb,B,train\n"
                       b"Brats18_CBICA_AAB_1,CBICA,train\n")
    yield "return", b"Partition_ID,Subject_ID\n1,Brats18_2013_0_1\n2,Brats18_CBICA_AAB_1\n10,a\n1\r,b\n"
    yield "quotes", b'subject_id,site\na,"x"\n'


def manifest():
    head = b"subject,site,grade,hospital,split,depth,height,width,sha256\n"
    row = b"s%d,A,HGG,%s,%s,155,240,240," + b"0" * 64 + b"\n"
    yield "whole", head + b"".join(row % (i, b"ABC"[i % 3:i % 3 + 1], (b"train", b"validation", b"test")[i // 3])
                                   for i in range(9))
    yield "short", b"hospital,split\nA,train\nA,train\nB,train\nB,validation\nx,test\n"
    yield "long-names", b"split,hospital\n" + b"".join(b"train," + b"x" * 200 + b"%d\n" % i for i in range(2))
    yield "no-train", b"hospital,split\nA,validation\n"
    yield "test-only", b"hospital,split\nA,test\n"
    yield "split", b"hospital,split\nA,trian\n"
    yield "four", b"split,hospital\n" + b"".join(b"train,%d\n" % i for i in range(4))
    yield "wide", b",".join(b"%d" % i for i in range(64)) + b"\n" * 3000 + b"x"


def checksums():
    of_nothing = hashlib.sha256(b"").hexdigest().encode()
    yield "one", of_nothing + b"  manifest.csv\n"
    yield "star", of_nothing + b" *manifest.csv"
    yield "second", b"0" * 64 + b"  test.h5\n" + of_nothing + b"  manifest.csv\n"
    yield "wrong", b"0" * 64 + b"  manifest.csv\n"
    yield "absent", of_nothing + b"  manifest.csv2\n"
    yield "junk", b"manifest.csv\n"


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def message(n, count, coding, kind, bits, payload, rice=0, grid=0, mode=0):
    head = b"FBU1" + struct.pack("<HBBIIqqqiBBH", 1, coding, kind, 3, 2, 18, n, count, grid, bits, rice, 0)
    head += bytes(range(16)) + struct.pack("<q", len(payload))
    return bytes([mode]) + head + struct.pack("<I", crc32c(head + payload)) + payload


def pack_bits(values, bits):
    number = 0
    for i, value in enumerate(values):
        number |= (value & ((1 << bits) - 1)) << (i * bits)
    return number.to_bytes((len(values) * bits + 7) // 8, "little")


def frame():
    """Mode byte, message. Codings 0 all, 1 implied, 2 Rice, 3 Rice of the absent, 4 bitmap; kinds 0 f32, 1 grid."""
    floats = struct.pack("<4f", 0.5, -1.0, 1e-30, 3e38)
    yield "all-f32", message(4, 4, 0, 0, 32, floats)
    yield "all-grid", message(5, 5, 0, 1, 7, pack_bits([-64, 63, 0, -1, 1], 7), grid=-20)
    yield "bitmap", message(20, 4, 4, 0, 32, b"\x81\x00\x09" + floats)
    yield "bitmap-grid", message(9, 2, 4, 1, 64, b"\x01\x01" + struct.pack("<2q", 1 << 62, -(1 << 62)))
    yield "rice", message(60, 3, 2, 1, 3, bytes([0b11011001, 0b00000101]) + pack_bits([1, -4, 3], 3), rice=2)
    yield "rice-0", message(9, 4, 2, 0, 32, b"\x1e" + floats)
    yield "rice-absent", message(8, 6, 3, 1, 2, b"\x14" + pack_bits([1, -2, 0, 1, -1, 0], 2))
    yield "implied", message(9, 4, 1, 0, 32, floats, mode=2)
    yield "all-public", message(4, 4, 0, 0, 32, floats, mode=2)
    yield "none", message(9, 0, 4, 1, 1, bytes(2))
    yield "as-is", message(4, 4, 0, 0, 32, floats, mode=1)
    yield "damaged", message(4, 4, 0, 0, 32, floats, mode=1)[:-1] + b"\0"
    yield "short", b"\1FBU1"


def ledger():
    """'=' and the file, or another byte and a file whose chain the target makes right."""
    line, chain, text = b"fedbrats privacy ledger 2: laplace n=100 count=40 ", "", b""
    for i in range(4):
        chain = hashlib.sha256(chain.encode() + line).hexdigest()
        text += line + chain.encode() + b"\n"
        line = b"0 %d 2 18 40 %s " % (i, hashlib.sha256(b"%d" % i).hexdigest().encode())
    yield "whole", b"=" + text
    yield "title", b"=" + text[:text.index(b"\n") + 1]
    yield "torn", b"=" + text[:-9]
    yield "edited", b"=" + text.replace(b" 18 ", b" 19 ", 1)
    yield "repaired", b" " + text.replace(b"0 1 2 18 40 ", b"4294967295 1 2 -9223372036854775808 40 ")
    yield "other", b" " + text.replace(b"n=100", b"n=101", 1)
    yield "zero", b" " + text + line + chain.encode() + b"\0" + chain.encode() + b"\n"
    yield "junk", b" " + text + line + b"x" + chain.encode() + b"\n"
    yield "spelling", b" " + text.replace(b"0 1 2", b"0 01 2", 1)
    yield "empty", b"="


def safetensors_bytes(entries, data, pad=b""):
    head = json.dumps(entries).encode() + pad
    return struct.pack("<Q", len(head)) + head + data


def safetensors():
    entries = {
        "__metadata__": {"format": "pt", "a\"b": "c\\d"},
        "conv.weight": {"dtype": "F32", "shape": [2, 2, 1, 1, 2], "data_offsets": [0, 32]},
        "conv.bias": {"dtype": "F32", "shape": [2], "data_offsets": [32, 40]},
        "norm": {"dtype": "F32", "shape": [2], "data_offsets": [40, 48]},
    }
    data = struct.pack("<12f", *range(12))
    yield "whole", safetensors_bytes(entries, data, b"   ")
    yield "no-metadata", safetensors_bytes(dict(list(entries.items())[1:]), data)
    yield "empty-metadata", safetensors_bytes({**entries, "__metadata__": {}}, data)
    yield "nan", safetensors_bytes(entries, struct.pack("<12f", *[float("nan")] * 12))
    yield "short", safetensors_bytes(entries, data[:-1])
    yield "missing", safetensors_bytes(dict(list(entries.items())[:3]), data)
    yield "unknown", safetensors_bytes({**entries, "other": entries["norm"]}, data)
    yield "overlap", safetensors_bytes({**entries, "norm": entries["conv.bias"]}, data)
    yield "beyond", safetensors_bytes({**entries, "norm": {**entries["norm"], "data_offsets": [44, 52]}}, data)
    yield "many-axes", safetensors_bytes({**entries, "norm": {**entries["norm"], "shape": [1] * 200}}, data)
    yield "long-name", safetensors_bytes({**entries, "x" * 300: entries["norm"]}, data)
    yield "shape", safetensors_bytes({**entries, "norm": {**entries["norm"], "shape": [1, 2]}}, data)
    yield "scalar", safetensors_bytes({**entries, "norm": {**entries["norm"], "shape": []}}, data)
    yield "dtype", safetensors_bytes({**entries, "norm": {**entries["norm"], "dtype": "F16"}}, data)
    yield "length", struct.pack("<Q", 1 << 60)
    yield "tiny", b"\0"


def conv_plans():
    head = b"convolutions of fedbrats, format 1, bf16\n"
    conv = b"conv 64 x 64 x 64, 16 to 16 channels, kernel 3, stride 1, "
    yield "own", head + conv + b"forward: own # 0.081 ms\n"
    plan = b"cudnn 9.15.1 engine 3 knobs - workspace 0\n"
    yield "cudnn", (head + conv + b"backward weights: bf16-gradient-f32 cudnn 9.19.0 engine 69 knobs 17=16,2=-1 "
                    b"workspace 32 # 0.102 ms, own 0.243 ms\n" + conv + b"backward data: bf16 " + plan)
    yield "f32", head.replace(b"bf16", b"f32") + conv + b"forward: f32 " + plan
    yield "twice", head + 2 * (conv + b"forward: own\n")
    yield "precision", head + conv + b"forward: tf32 " + plan
    yield "logits", head + conv.replace(b"to 16", b"to 3") + b"forward: bf16 " + plan
    knobs = b",".join(b"%d=1" % i for i in range(65))
    yield "knobs", head + conv + b"forward: bf16 " + plan.replace(b"-", knobs)
    yield "full-knobs", head + conv + b"forward: bf16 " + plan.replace(b"-", knobs[:-5])
    yield "long", head + conv + b"x" * 3000
    yield "direction", head + conv + b"backwards: own\n"
    yield "title", b"convolutions\n"
    yield "form", head + b"conv 1\n"


def state_bytes(sections, count=None, mode=0, magic=b"FBSTATE1"):
    text = magic + struct.pack("<q", len(sections) if count is None else count)
    for name, data in sections:
        text += name.ljust(48, b"\0") + struct.pack("<q", len(data))
    text += b"".join(data for _, data in sections)
    return bytes([mode]) + text + hashlib.sha256(text).hexdigest().encode()


def state():
    """Mode byte, state file."""
    three = [(b"round", struct.pack("<q", 7)), (b"moments/3", bytes(range(40))), (b"empty", b"")]
    whole = state_bytes(three, mode=1)
    yield "whole", whole
    yield "repaired", state_bytes(three)
    yield "none", state_bytes([])
    yield "many", state_bytes([(b"s%d" % i, b"") for i in range(64)])
    yield "too-many", state_bytes([], count=1 << 60)
    yield "negative", state_bytes([], count=-1)
    yield "twice", state_bytes([(b"a", b"1"), (b"a", b"2")])
    yield "no-name", state_bytes([(b"", b"1")])
    yield "blank", state_bytes([(b"a b", b"1")])
    yield "full-name", state_bytes([(b"x" * 48, b"1")])
    yield "longer", state_bytes(three).replace(struct.pack("<q", 40), struct.pack("<q", 1 << 62))
    yield "behind", state_bytes(three).replace(struct.pack("<q", 40), struct.pack("<q", 39))
    yield "magic", state_bytes(three, magic=b"FBSTATE2")
    yield "damaged", whole[:-1] + b"x"
    yield "short", whole[:60]


def main():
    makers = (config, nifti_header, nifti_volume, partition, manifest, checksums, frame, ledger, safetensors, state,
              conv_plans)
    for make in makers:
        folder = os.path.join(sys.argv[1], make.__name__)
        os.makedirs(folder, exist_ok=True)
        for name, data in make():
            with open(os.path.join(folder, f"seed-{name}"), "wb") as file:
                file.write(data)


main()
