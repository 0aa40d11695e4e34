from cython cimport locals, ulonglong


@locals(shard=ulonglong, epoch=ulonglong, counter_high=ulonglong, counter_low=ulonglong, high=ulonglong, low=ulonglong, p=list)
cpdef str text(bytes packed)
