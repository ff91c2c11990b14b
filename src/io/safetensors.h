/* SPDX-License-Identifier: Apache-2.0
 *
 * The model as a .safetensors file with MONAI's tensor names and PyTorch's layout:
 * SegResNet.load_state_dict(safetensors.torch.load_file(path)) reads it.
 */
#pragma once

#include "core/file.h"
#include "nn/params.h"

/* Writes atomically. w (params->count). `metadata` (metadata_count pairs name, text) goes into __metadata__ beside
 * {"format": "pt"}. sha256 (may be NULL) receives the hash of the weights alone: the run's model_sha256. */
fb_status fb_safetensors_write(const char *path, const fb_params *params, const float *w, const char *const *metadata,
                               int metadata_count, char sha256[FB_SHA256_CHARS]) FB_MUST_USE;

/* Reads all tensors of `params` into w; checks the header's length, JSON, names, dtype F32, shapes, offsets, holes and
 * the file's size. Errors name file, tensor, value and what was expected; w is then unchanged. */
fb_status fb_safetensors_read(const char *path, const fb_params *params, float *w) FB_MUST_USE;
