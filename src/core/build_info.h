/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

const char *fb_build_version(void);  /* release, e.g. "0.1.0" */
const char *fb_build_revision(void); /* git revision, "-dirty" when the tree had changes; "unknown" outside git */
const char *fb_build_compiler(void); /* name and version */
const char *fb_build_flags(void);    /* compiler flags that decide the bits */
