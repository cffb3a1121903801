"""The stable codes of everything that can be wrong with a file.

A code is never given another meaning. F0xx: the file itself. F1xx: safetensors. F2xx: zip. F3xx: pickle.
F4xx: tensors and storages of torch. F5xx: torch's older formats. F6xx: checkpoints of several files.
F7xx: files of other kinds. F9xx: limits.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Self


class Code(StrEnum):
    """What is wrong, as text that scripts may rely on.

    Attributes:
        meaning: the defect, in a line.
    """

    meaning: str

    def __new__(cls, value: str, meaning: str) -> Self:
        """Keep the meaning beside the value."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member

    FILE_MISSING = "QKV-F001", "There is no such file, or a link leads nowhere."
    FILE_PERMISSION = "QKV-F002", "The file or its folder may not be read."
    FILE_LINKS = "QKV-F003", "Symbolic links lead round in a circle."
    FILE_OPEN = "QKV-F004", "The file cannot be opened, for another reason of the system."
    FILE_PATH = "QKV-F005", "The path is not one that a file can have."
    FILE_DIRECTORY = "QKV-F006", "It is a directory where a file is needed."
    FILE_PIPE = "QKV-F007", "It is a named pipe."
    FILE_DEVICE = "QKV-F008", "It is a device."
    FILE_SOCKET = "QKV-F009", "It is a socket, or another thing that is no regular file."
    FILE_EMPTY = "QKV-F010", "The file has no bytes."
    FILE_SHORT = "QKV-F011", "The file ends before something that it announces."
    FILE_SHRANK = "QKV-F012", "The file became shorter while it was read."
    FILE_READ = "QKV-F013", "The system could not read from the file."
    FILE_ESCAPE = "QKV-F015", "It names a file outside its own folder."
    FOLDER_LIST = "QKV-F020", "The folder cannot be listed."
    FOLDER_NONE = "QKV-F021", "The folder holds no checkpoint."
    FOLDER_SEVERAL = "QKV-F022", "The folder holds several checkpoints and nothing says which is meant."
    CONFIG = "QKV-F030", "A file of hyper-parameters cannot be used."

    SAFETENSORS_LENGTH = "QKV-F101", "The header is said to be longer than the file."
    SAFETENSORS_JSON = "QKV-F103", "The header is not JSON in UTF-8."
    SAFETENSORS_DUPLICATE = "QKV-F104", "A name stands in the header twice."
    SAFETENSORS_METADATA = "QKV-F105", "The metadata is not a map from text to text."
    SAFETENSORS_FIELDS = "QKV-F106", "A tensor lacks a field or has an unknown one."
    SAFETENSORS_DTYPE = "QKV-F107", "A tensor has an unknown dtype."
    SAFETENSORS_SHAPE = "QKV-F108", "A shape is not a list of sizes."
    SAFETENSORS_OFFSETS = "QKV-F109", "The data_offsets are not a start and an end."
    SAFETENSORS_RANGE = "QKV-F110", "A tensor's bytes lie outside the file."
    SAFETENSORS_SIZE = "QKV-F111", "Shape and number of bytes disagree."
    SAFETENSORS_HOLE = "QKV-F112", "Bytes between two tensors belong to none."
    SAFETENSORS_OVERLAP = "QKV-F113", "Two tensors share bytes or a start."
    SAFETENSORS_TRAILING = "QKV-F114", "Bytes follow the last tensor."

    ZIP_NO_END = "QKV-F201", "The zip has no end record: it is truncated."
    ZIP_TRAILING = "QKV-F202", "Bytes follow the end record."
    ZIP_END64 = "QKV-F203", "The zip64 end record is missing or not where it should be."
    ZIP_SPLIT = "QKV-F204", "It is one part of a zip split over several files."
    ZIP_PLACE = "QKV-F205", "The directory is not where the end record says."
    ZIP_DIRECTORY = "QKV-F206", "The directory is cut short or not one."
    ZIP_COUNT = "QKV-F207", "The directory holds more entries than announced."
    ZIP_DUPLICATE = "QKV-F208", "Two entries have the same name."
    ZIP_RANGE = "QKV-F209", "An entry does not fit into the file."
    ZIP_NAME = "QKV-F210", "An entry's name is not UTF-8."
    ZIP_SIZES64 = "QKV-F211", "A large entry lacks its zip64 sizes."
    ZIP_COMPRESSED = "QKV-F212", "An entry is compressed."
    ZIP_ENCRYPTED = "QKV-F213", "An entry is encrypted."
    ZIP_LOCAL = "QKV-F214", "An entry has no header of its own."
    ZIP_MISMATCH = "QKV-F215", "An entry's own header says something else than the directory."
    ZIP_CHECKSUM = "QKV-F216", "An entry's checksum is wrong."
    ZIP_OVERLAP = "QKV-F217", "Two entries share bytes."
    ZIP_KIND = "QKV-F218", "An entry is a link, or a folder with content."
    ZIP_PICKLE = "QKV-F219", "The zip has not exactly one folder with one data.pkl."
    ZIP_BYTEORDER = "QKV-F220", "The byteorder entry says neither little nor big."
    ZIP_VERSION = "QKV-F222", "The version entry is of no version that torch writes."
    ZIP_PREPENDED = "QKV-F223", "Something stands before the first entry."

    PICKLE_TRUNCATED = "QKV-F301", "The pickle ends in the middle."
    PICKLE_TRAILING = "QKV-F302", "Bytes follow the pickle's end."
    PICKLE_OPCODE = "QKV-F303", "An opcode that no checkpoint uses, or no opcode."
    PICKLE_STACK = "QKV-F304", "An opcode needs more than is on the stack."
    PICKLE_MARK = "QKV-F305", "A MARK is missing."
    PICKLE_MEMO = "QKV-F306", "A memo entry was never stored, or has no number."
    PICKLE_LENGTH = "QKV-F307", "More bytes are announced than there are."
    PICKLE_NUMBER = "QKV-F308", "A number is not written as one."
    PICKLE_TEXT = "QKV-F309", "Text is not UTF-8."
    PICKLE_STRING = "QKV-F310", "A string is not quoted."
    PICKLE_PROTOCOL = "QKV-F311", "The protocol is not one of 0 to 5."
    PICKLE_KEY = "QKV-F312", "A key that a dict cannot have."
    PICKLE_TARGET = "QKV-F313", "Items, entries or a state are given to what has none."
    PICKLE_GLOBAL = "QKV-F314", "A class or function is not named by two texts."
    PICKLE_STOP = "QKV-F315", "The pickle ends with more than its one value on the stack."
    PICKLE_PAIRS = "QKV-F316", "A key has no value."
    PICKLE_FRAME = "QKV-F317", "An opcode crosses the end of its frame, or the frame the end of the file."

    STORAGE_MISSING = "QKV-F401", "A storage that a tensor needs is not in the file."
    STORAGE_SIZE = "QKV-F402", "A storage has another size than the pickle says."
    STORAGE_ID = "QKV-F403", "A storage is not described as torch does."
    STORAGE_TYPE = "QKV-F404", "A storage is of a type that torch does not have."
    STORAGE_VIEW = "QKV-F405", "A view of a storage reaches past it or is malformed."
    TENSOR_ARGUMENTS = "QKV-F406", "A tensor lacks its storage, offset, size or stride."
    TENSOR_DTYPE = "QKV-F407", "A tensor's dtype is missing or unknown."
    TENSOR_SHAPE = "QKV-F408", "A tensor's shape, stride or offset cannot be."
    TENSOR_RANGE = "QKV-F409", "A tensor reaches past its storage."
    TENSOR_TWICE = "QKV-F410", "Two tensors have the same name."
    NO_WEIGHTS = "QKV-F411", "The file holds no model weights."
    STORAGE_CONFLICT = "QKV-F413", "One storage is said to be of two types."

    LEGACY_MAGIC = "QKV-F501", "Another magic number or protocol than torch writes."
    LEGACY_KEYS = "QKV-F502", "The list of storages is not that of the tensors."
    LEGACY_TRAILING = "QKV-F503", "Bytes follow the last storage."
    LEGACY_BYTEORDER = "QKV-F504", "The byte order is not said."

    INDEX_JSON = "QKV-F601", "The shard index is not JSON in UTF-8."
    INDEX_DUPLICATE = "QKV-F602", "A name stands in the shard index twice."
    INDEX_MAP = "QKV-F603", "The JSON file has no weight_map from tensors to files."
    INDEX_FILE = "QKV-F604", "The shard index maps a tensor to what is no file name."
    INDEX_TENSOR = "QKV-F605", "A tensor is not in the shard that the index names."
    DCP = "QKV-F620", "It is a torch.distributed.checkpoint without its one .metadata."
    DCP_METADATA = "QKV-F621", "The metadata is not that of a torch.distributed.checkpoint."
    DCP_PLACE = "QKV-F622", "It is not said in which file a chunk lies, or said twice."
    DCP_RANGE = "QKV-F623", "A chunk lies outside its file."
    DCP_LINK = "QKV-F624", "A chunk's file is a link that leads out of the folder."
    DCP_TRANSFORMED = "QKV-F625", "Chunks were written through an extension, such as compression."
    DCP_CHUNK = "QKV-F626", "A chunk is not the tensor that the metadata describes."
    CHUNK_OUTSIDE = "QKV-F627", "A chunk does not lie within its tensor."
    CHUNK_OVERLAP = "QKV-F628", "Chunks of a tensor overlap."
    CHUNK_GAP = "QKV-F629", "Chunks leave part of their tensor out."
    PART_OFFSETS = "QKV-F630", "DCP_SHARDING_INFO does not say where the parts of every tensor lie."
    PART_ALONE = "QKV-F631", "The file holds parts of tensors, and the other parts are not beside it."
    PART_CONFLICT = "QKV-F632", "Two files give a tensor other dtypes or ranks."

    NOT_A_CHECKPOINT = "QKV-F701", "It is nothing that is known."
    IS_TORCHSCRIPT = "QKV-F702", "It is a TorchScript program."
    IS_PACKAGE = "QKV-F703", "It is a torch.package archive."
    IS_TAR = "QKV-F704", "It is a tar archive."
    IS_GGUF = "QKV-F705", "It is a GGUF file."
    IS_HDF5 = "QKV-F706", "It is an HDF5 file."
    IS_NUMPY = "QKV-F707", "It is a NumPy array."
    IS_COMPRESSED = "QKV-F708", "It is a compressed file: gzip, xz, zstd, bzip2, 7-Zip."
    IS_LFS_POINTER = "QKV-F709", "It is a Git LFS pointer, not the file."
    IS_BARE_PICKLE = "QKV-F710", "It is a pickle without tensors of its own."
    IS_WEB_PAGE = "QKV-F711", "It is a web page."

    LIMIT_HEADER = "QKV-F901", "A header, index or directory has more bytes than the limit."
    LIMIT_ENTRIES = "QKV-F902", "A zip or tar has more entries than the limit."
    LIMIT_OPCODES = "QKV-F903", "A pickle has more steps than the limit."
    LIMIT_OBJECTS = "QKV-F904", "A pickle or JSON text would make more objects than the limit."
    LIMIT_MEMO = "QKV-F905", "A pickle keeps more memo entries than the limit."
    LIMIT_STACK = "QKV-F906", "A pickle has more values or marks on its stack than the limit."
    LIMIT_DEPTH = "QKV-F907", "Weights are nested more deeply than the limit."
    LIMIT_TENSORS = "QKV-F908", "More names lead to tensors than the limit."
    LIMIT_SHARDS = "QKV-F909", "The checkpoint consists of more files than the limit."
    LIMIT_EXPANSION = "QKV-F910", "A tensor is the expansion of a smaller storage beyond the limit."
    LIMIT_PICKLE = "QKV-F911", "A pickle has more bytes than the limit."
    LIMIT_INTEGER = "QKV-F912", "An integer has more than 256 bytes or digits."
    LIMIT_KEY = "QKV-F913", "A key has over 200 parts, or over 10,000 keys are tuples of numbers or huge."
