//! The opcodes of pickle: those the codec uses, and the names of those it refuses.
//!
//! What each one does is in `tape` (reading) and `ser` (writing).

/// Declares a constant for each opcode of the subset, and their names for messages.
macro_rules! opcodes {
    (
        data { $($name:ident = $byte:literal,)* }
        refused { $($other:ident = $other_byte:literal,)* }
    ) => {
        $(pub(super) const $name: u8 = $byte;)*

        /// The name CPython's `pickletools` gives an opcode; none for a byte that is no opcode.
        pub(super) const fn name(byte: u8) -> Option<&'static str> {
            match byte {
                $($byte => Some(stringify!($name)),)*
                $($other_byte => Some(stringify!($other)),)*
                _ => None,
            }
        }
    };
}

opcodes! {
    data {
        PROTO = 0x80,
        FRAME = 0x95,
        STOP = b'.',

        NONE = b'N',
        NEWTRUE = 0x88,
        NEWFALSE = 0x89,
        BININT = b'J',
        BININT1 = b'K',
        BININT2 = b'M',
        LONG1 = 0x8a,
        LONG4 = 0x8b,
        BINFLOAT = b'G',
        SHORT_BINUNICODE = 0x8c,
        BINUNICODE = b'X',
        BINUNICODE8 = 0x8d,
        SHORT_BINBYTES = b'C',
        BINBYTES = b'B',
        BINBYTES8 = 0x8e,
        BYTEARRAY8 = 0x96,

        MARK = b'(',
        EMPTY_LIST = b']',
        APPEND = b'a',
        APPENDS = b'e',
        EMPTY_TUPLE = b')',
        TUPLE1 = 0x85,
        TUPLE2 = 0x86,
        TUPLE3 = 0x87,
        TUPLE = b't',
        EMPTY_DICT = b'}',
        SETITEM = b's',
        SETITEMS = b'u',
        EMPTY_SET = 0x8f,
        ADDITEMS = 0x90,
        FROZENSET = 0x91,

        NEXT_BUFFER = 0x97,
        READONLY_BUFFER = 0x98,

        MEMOIZE = 0x94,
        BINGET = b'h',
        LONG_BINGET = b'j',
    }
    refused {
        POP = b'0',
        POP_MARK = b'1',
        DUP = b'2',
        FLOAT = b'F',
        INT = b'I',
        LONG = b'L',
        STRING = b'S',
        BINSTRING = b'T',
        SHORT_BINSTRING = b'U',
        UNICODE = b'V',
        LIST = b'l',
        DICT = b'd',
        GET = b'g',
        PUT = b'p',
        BINPUT = b'q',
        LONG_BINPUT = b'r',
        PERSID = b'P',
        BINPERSID = b'Q',
        REDUCE = b'R',
        BUILD = b'b',
        GLOBAL = b'c',
        INST = b'i',
        OBJ = b'o',
        NEWOBJ = 0x81,
        EXT1 = 0x82,
        EXT2 = 0x83,
        EXT4 = 0x84,
        NEWOBJ_EX = 0x92,
        STACK_GLOBAL = 0x93,
    }
}
