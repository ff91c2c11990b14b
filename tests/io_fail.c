/* SPDX-License-Identifier: Apache-2.0
 *
 * Preloaded by tests/cli_faults.sh: lets one call of the file system or of HDF5 fail, as tests/faults.h says. The calls
 * of stdio are wrapped too, since inside the C library they reach the system without passing here. A call that fails is
 * not made, but for close and fclose, which give the descriptor back as the system's do.
 * HDF5's calls are wrapped without its headers: every argument and result is passed as a long, eight of them, which on
 * x86-64 and AArch64 gives each what it expects. */
#define _GNU_SOURCE
#include "faults.h"

#include <dirent.h>
#include <dlfcn.h>
#include <stdarg.h>
#include <stdint.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

enum { PATH_CHARS = 4096, ERROR_SEEN = 0x20 /* glibc's flag of a stream on which an operation failed */ };

static void *next(const char *name)
{
    void *found = dlsym(RTLD_NEXT, name);
    if (!found)
        abort();
    return found;
}

/* The next definition of a function, in a variable `real`. */
#define REAL(result, name, parameters)                                                                                 \
    static result(*real) parameters;                                                                                   \
    if (!real) {                                                                                                       \
        void *found = next(#name);                                                                                     \
        memcpy(&real, &found, sizeof real);                                                                            \
    }

static int fault_fd(const char *call, int fd)
{
    char link[64], path[PATH_CHARS] = "";
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    const long chars = syscall(SYS_readlinkat, AT_FDCWD, link, path, sizeof path - 1);
    return chars > 0 ? fault(call, path) : FAULT_NONE;
}

static int fault_stream(const char *call, FILE *stream)
{
    const int fd = fileno(stream); /* -1: open_memstream's */
    const int how = fd < 0 || fd == STDERR_FILENO ? FAULT_NONE : fault_fd(call, fd);
    if (how == FAULT_ERROR)
        stream->_flags |= ERROR_SEEN;
    return how;
}

/* --- calls with a path --- */

#define WITH_PATH(result, name, parameters, arguments, path, failed)                                                   \
    result name parameters                                                                                             \
    {                                                                                                                  \
        REAL(result, name, parameters)                                                                                 \
        return fault(#name, path) ? failed : real arguments;                                                           \
    }

WITH_PATH(FILE *, fopen, (const char *path, const char *mode), (path, mode), path, NULL)
WITH_PATH(DIR *, opendir, (const char *path), (path), path, NULL)
WITH_PATH(int, mkdir, (const char *path, mode_t mode), (path, mode), path, -1)
WITH_PATH(int, rmdir, (const char *path), (path), path, -1)
WITH_PATH(int, stat, (const char *path, struct stat *out), (path, out), path, -1)
WITH_PATH(int, lstat, (const char *path, struct stat *out), (path, out), path, -1)
WITH_PATH(int, statvfs, (const char *path, struct statvfs *out), (path, out), path, -1)
WITH_PATH(int, access, (const char *path, int mode), (path, mode), path, -1)
WITH_PATH(int, rename, (const char *from, const char *to), (from, to), from, -1)
WITH_PATH(int, link, (const char *from, const char *to), (from, to), from, -1)
WITH_PATH(int, unlink, (const char *path), (path), path, -1)

int open(const char *path, int flags, ...)
{
    REAL(int, open, (const char *, int, ...))
    mode_t mode = 0;
    if (flags & O_CREAT) {
        va_list arguments;
        va_start(arguments, flags);
        mode = va_arg(arguments, mode_t);
        va_end(arguments);
    }
    return fault("open", path) ? -1 : real(path, flags, mode);
}

/* --- calls with a descriptor --- */

#define WITH_FD(name, parameters, arguments, fd)                                                                       \
    int name parameters                                                                                                \
    {                                                                                                                  \
        REAL(int, name, parameters)                                                                                    \
        return fault_fd(#name, fd) ? -1 : real arguments;                                                              \
    }

WITH_FD(fsync, (int fd), (fd), fd)
WITH_FD(fdatasync, (int fd), (fd), fd)
WITH_FD(ftruncate, (int fd, off_t size), (fd, size), fd)
WITH_FD(fstat, (int fd, struct stat *out), (fd, out), fd)

/* As on NFS, where only what is open for writing can be locked for one alone. */
int flock(int fd, int operation)
{
    REAL(int, flock, (int, int))
    if (fault_fd("flock", fd))
        return -1;
    if ((operation & LOCK_EX) == 0 || (fcntl(fd, F_GETFL) & O_ACCMODE) != O_RDONLY)
        return real(fd, operation);
    errno = EBADF;
    return -1;
}

int close(int fd)
{
    REAL(int, close, (int))
    const int failed = fault_fd("close", fd), reason = errno;
    const int result = real(fd);
    if (!failed)
        return result;
    errno = reason;
    return -1;
}

#define MOVES_BYTES(name, parameters, arguments, fd, size)                                                             \
    ssize_t name parameters                                                                                            \
    {                                                                                                                  \
        REAL(ssize_t, name, parameters)                                                                                \
        const int how = fault_fd(#name, fd);                                                                           \
        if (how == FAULT_SHORT)                                                                                        \
            size /= 2;                                                                                                 \
        return how == FAULT_ERROR ? -1 : real arguments;                                                               \
    }

MOVES_BYTES(read, (int fd, void *to, size_t size), (fd, to, size), fd, size)
MOVES_BYTES(write, (int fd, const void *from, size_t size), (fd, from, size), fd, size)
MOVES_BYTES(pread, (int fd, void *to, size_t size, off_t at), (fd, to, size, at), fd, size)
MOVES_BYTES(pwrite, (int fd, const void *from, size_t size, off_t at), (fd, from, size, at), fd, size)

/* --- calls with a stream --- */

size_t fread(void *to, size_t size, size_t count, FILE *stream)
{
    REAL(size_t, fread, (void *, size_t, size_t, FILE *))
    const int how = fault_stream("fread", stream);
    return how == FAULT_ERROR ? 0 : real(to, size, how == FAULT_SHORT ? count / 2 : count, stream);
}

/* Half of it is written, and the other half fails. */
size_t fwrite(const void *from, size_t size, size_t count, FILE *stream)
{
    REAL(size_t, fwrite, (const void *, size_t, size_t, FILE *))
    const int how = fault_stream("fwrite", stream), reason = errno;
    if (how == FAULT_NONE)
        return real(from, size, count, stream);
    const size_t done = real(from, size, count / 2, stream);
    errno = how == FAULT_SHORT ? ENOSPC : reason;
    return done;
}

int fclose(FILE *stream)
{
    REAL(int, fclose, (FILE *))
    const int failed = fault_stream("fclose", stream), reason = errno;
    const int result = real(stream);
    if (!failed)
        return result;
    errno = reason;
    return EOF;
}

int fflush(FILE *stream)
{
    REAL(int, fflush, (FILE *))
    const int counts = stream && fault_is_ours(__builtin_return_address(0)); /* not what libraries do at exit */
    return counts && fault_stream("fflush", stream) ? EOF : real(stream);
}

char *fgets(char *line, int chars, FILE *stream)
{
    REAL(char *, fgets, (char *, int, FILE *))
    return fault_stream("fgets", stream) ? NULL : real(line, chars, stream);
}

int fputs(const char *text, FILE *stream)
{
    REAL(int, fputs, (const char *, FILE *))
    return fault_stream("fputs", stream) ? EOF : real(text, stream);
}

int fputc(int c, FILE *stream)
{
    REAL(int, fputc, (int, FILE *))
    return fault_stream("fputc", stream) ? EOF : real(c, stream);
}

int puts(const char *text)
{
    REAL(int, puts, (const char *))
    return fault_stream("puts", stdout) ? EOF : real(text);
}

int fprintf(FILE *stream, const char *format, ...)
{
    if (fault_stream("fprintf", stream))
        return -1;
    va_list arguments;
    va_start(arguments, format);
    const int result = vfprintf(stream, format, arguments);
    va_end(arguments);
    return result;
}

int printf(const char *format, ...)
{
    if (fault_stream("printf", stdout))
        return -1;
    va_list arguments;
    va_start(arguments, format);
    const int result = vfprintf(stdout, format, arguments);
    va_end(arguments);
    return result;
}

/* --- HDF5 --- */

static void *symbol(const char *name)
{
    return dlsym(RTLD_DEFAULT, name);
}

/* The file that a handle belongs to; "" for another. */
static const char *file_of(long handle, char path[PATH_CHARS])
{
    long (*get_name)(int64_t, char *, size_t) = NULL;
    void *found = symbol("H5Fget_name");
    memcpy(&get_name, &found, sizeof get_name);
    path[0] = '\0';
    if (get_name)
        (void)get_name(handle, path, PATH_CHARS);
    return path;
}

/* As HDF5 does when it fails. */
static void push_error(const char *call)
{
    int (*push)(int64_t, const char *, const char *, unsigned, int64_t, int64_t, int64_t, const char *, ...) = NULL;
    void *found = symbol("H5Epush2");
    const int64_t *class_id = symbol("H5E_ERR_CLS_g"), *major = symbol("H5E_RESOURCE_g"),
                  *minor = symbol("H5E_NOSPACE_g");
    memcpy(&push, &found, sizeof push);
    push(0, __FILE__, call, __LINE__, *class_id, *major, *minor, "%s was made to fail", call);
}

static _Thread_local int inside_hdf5; /* what HDF5's libraries call of each other does not count */

#define HDF5(name, path)                                                                                               \
    long name(long a, long b, long c, long d, long e, long f, long g, long h)                                          \
    {                                                                                                                  \
        REAL(long, name, (long, long, long, long, long, long, long, long))                                             \
        char file[PATH_CHARS] = "";                                                                                    \
        const int counts = getenv("FB_FAULT_HDF5") && inside_hdf5 == 0;                                                \
        (void)file;                                                                                                    \
        inside_hdf5++;                                                                                                 \
        const int failed = counts && fault(#name, path) == FAULT_ERROR;                                                \
        const long result = failed ? -1 : real(a, b, c, d, e, f, g, h);                                                \
        inside_hdf5--;                                                                                                 \
        if (failed)                                                                                                    \
            push_error(#name);                                                                                         \
        return result;                                                                                                 \
    }
#define HDF5_IN(name) HDF5(name, file_of(a, file)) /* its first argument lies in a file */
#define HDF5_OF(name) HDF5(name, (const char *)a)  /* its first argument is the path of a file */
#define HDF5_ANY(name) HDF5(name, any_below())     /* about no file */

/* A path that counts. */
static const char *any_below(void)
{
    static char path[PATH_CHARS];
    const char *below = getenv("FB_FAULT_BELOW");
    snprintf(path, sizeof path, "%.*s", below ? (int)strcspn(below, ":") : 0, below ? below : "");
    return path;
}

HDF5_OF(H5Fopen)
HDF5_OF(H5Fcreate)
HDF5_IN(H5Fflush)
HDF5_IN(H5Fget_file_image)
HDF5_IN(H5Gopen2)
HDF5_IN(H5Gcreate2)
HDF5_IN(H5Gget_info)
HDF5_IN(H5Lget_name_by_idx)
HDF5_IN(H5Dopen2)
HDF5_IN(H5Dcreate2)
HDF5_IN(H5Dread)
HDF5_IN(H5Dwrite)
HDF5_IN(H5Dget_offset)
HDF5_IN(H5Dget_space)
HDF5_IN(H5DSset_scale)
HDF5_IN(H5DSattach_scale)
HDF5_IN(H5Aopen)
HDF5_IN(H5Acreate2)
HDF5_IN(H5Adelete)
HDF5_IN(H5Aread)
HDF5_IN(H5Awrite)
HDF5_IN(H5Aget_space)
HDF5_IN(H5Aget_type)
HDF5_ANY(H5Pcreate)
HDF5_ANY(H5Pset_alloc_time)
HDF5_ANY(H5Pset_attr_creation_order)
HDF5_ANY(H5Pset_fapl_core)
HDF5_ANY(H5Pset_file_image)
HDF5_ANY(H5Pset_file_locking)
HDF5_ANY(H5Pset_fill_time)
HDF5_ANY(H5Pset_fill_value)
HDF5_ANY(H5Pset_layout)
HDF5_ANY(H5Pset_link_creation_order)
HDF5_ANY(H5Pset_obj_track_times)
HDF5_ANY(H5Screate)
HDF5_ANY(H5Screate_simple)
HDF5_ANY(H5Tcopy)
HDF5_ANY(H5Tset_cset)
HDF5_ANY(H5Tset_size)
