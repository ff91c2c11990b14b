/* SPDX-License-Identifier: Apache-2.0
 *
 * The key stream that draws are taken from. Each of its two readers has an fb_stream, fb_stream_reserve(stream, bytes),
 * after which this many bytes may be taken, and fb_stream_take(stream, bytes), the next ones as a little-endian number;
 * which reader it is shows in no draw, because no byte is ever dropped. FB_STREAM_OF_THREAD, defined before the first
 * inclusion, asks for that of a graphics processor's thread.
 */
#pragma once

#if defined(__CUDACC__) || defined(FB_STREAM_OF_THREAD)
#include "privacy/thread_stream.h"
#else
#include "privacy/noise_stream.h"
#endif
