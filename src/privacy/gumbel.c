/* SPDX-License-Identifier: Apache-2.0
 *
 * E = K ln 2 - ln(1 - y): K geometric, the zeros before the first 1 of a random string, and y uniform in (0, 1/2), of
 * which 56 random bits give the cell of width 2^-57 and the cell's middle stands for it. When K = 0 and y < 2^-8, E has
 * fewer good bits; then 64 random bits are appended to y, and 64 more while nothing but zeros was before them, and
 * ln(-ln(1 - y)) = ln(y) + ln(1 + y/2 + y^2/3 + ...). The exact variable that a draw is compared with has the same K
 * and a y whose first bits these are.
 *
 * Error of a draw:
 *   - negative_log: the series of log(1 + r), |r| < 2^-7.9, is cut after r^6, 2^-58; the 9 bits of the argument that
 *     are dropped, 2^-54; roundings and the table, 2^-60: below 2^-53.
 *   - E, at least 2^-8 here: that, 2^-57 for a rounding, K ln 2 relatively 2^-47, and 2^-57 for the middle of the cell
 *     (half its width, magnified by 1 / (1 - y) <= 2): below 2^-52, relatively 2^-44, or 2^-46 where K is large.
 *   - With K = 0 and y < 2^-8: y relatively by 2^-63; the series cut after y^6 / 7 by 2^-59 and roundings by 2^-60,
 *     relatively.
 *   - G: negative_log again, a shift of at most 1100 times ln 2 rounded to 2^-56 by 2^-46, and half a unit of the
 *     result, 2^-41. In all below 2^-41 + 2^-41 = FB_GUMBEL_ERROR.
 *   - K stops at 1016, and y at 2^-1020: two events of probability below 2^-1000.
 */
#include "privacy/gumbel.h"

#include "privacy/fixed.h"
#include "privacy/noise_stream.h"

enum { CELL_BITS = 7, Y_BITS = 57, WORD_BYTES = 8, ZERO_BYTES_MAX = 127 };

static const int EXPONENT_MIN = -960;    /* of y, below which no more bits are read */
static const uint64_t ZEROS_SMALL = 120; /* E is below 128 */

static const int64_t LN_2_Q56 = INT64_C(0xB17217F7D1CF79);
static const uint64_t LN_2_Q57 = UINT64_C(0x162E42FEFA39EF3);

/* Cell i holds the mantissas from (128 + i) / 256 on. */
typedef struct log_cell {
    uint16_t inverse; /* of the cell's middle, in Q15 */
    int64_t log;      /* of that, in Q63 */
} log_cell;

static const log_cell cells[1 << CELL_BITS] = {
    {65281, INT64_C(0x58394C515E234DD5)}, {64777, INT64_C(0x573B5505F020D575)}, {64281, INT64_C(0x563F75F370D0D330)},
    {63792, INT64_C(0x55453BF6ECB58B24)}, {63310, INT64_C(0x544CB4999BB05C2A)}, {62836, INT64_C(0x5356730FF6AA87B3)},
    {62369, INT64_C(0x526201B834B48232)}, {61909, INT64_C(0x516F6E99235EAD0D)}, {61455, INT64_C(0x507E3F611C75443E)},
    {61008, INT64_C(0x4F8F08E4639DB157)}, {60568, INT64_C(0x4EA1D99C87B4491D)}, {60133, INT64_C(0x4DB5A92741A517B2)},
    {59705, INT64_C(0x4CCB99451F561319)}, {59283, INT64_C(0x4BE32B58C90DA132)}, {58867, INT64_C(0x4AFC6B660224A7D0)},
    {58457, INT64_C(0x4A176590AF61CDAE)}, {58053, INT64_C(0x4934261BD6402C44)}, {57654, INT64_C(0x485227E9152D5111)},
    {57260, INT64_C(0x477174778061104F)}, {56872, INT64_C(0x4692A8E2DDFCF162)}, {56489, INT64_C(0x45B53D63041FA9DB)},
    {56111, INT64_C(0x44D93BCAFB6B52FE)}, {55738, INT64_C(0x43FEAE0848A0D647)}, {55370, INT64_C(0x43259E2245CE33FB)},
    {55007, INT64_C(0x424E16396FD22A9D)}, {54649, INT64_C(0x41782086A7F9D819)}, {54295, INT64_C(0x40A32CDAA1ED916C)},
    {53946, INT64_C(0x3FCFDE1D60617C2B)}, {53601, INT64_C(0x3EFDA24D608FF6B9)}, {53261, INT64_C(0x3E2D1E7F60B86413)},
    {52925, INT64_C(0x3D5DBEDD591DD868)}, {52593, INT64_C(0x3C8F8B265A76BBE6)}, {52265, INT64_C(0x3BC28B2DC8DD97CB)},
    {51942, INT64_C(0x3AF7685B3A8A3FC6)}, {51622, INT64_C(0x3A2CE8A93A4C5C32)}, {51306, INT64_C(0x3963B4A586437C85)},
    {50995, INT64_C(0x389C78F07B694A1D)}, {50686, INT64_C(0x37D5503C383C9A06)}, {50382, INT64_C(0x3710304CB3602694)},
    {50081, INT64_C(0x364BD576BB2E1ABE)}, {49784, INT64_C(0x3588EDA04090DE07)}, {49490, INT64_C(0x34C6D7BF4CA8D4B3)},
    {49200, INT64_C(0x340643DA29BB48F5)}, {48913, INT64_C(0x33468F0674813322)}, {48630, INT64_C(0x32886B692EDBB8FF)},
    {48349, INT64_C(0x31CA86B65CBEC346)}, {48072, INT64_C(0x310E40B05D699C0C)}, {47798, INT64_C(0x3052F2A7D17E913D)},
    {47528, INT64_C(0x2F9952FB4D44274D)}, {47260, INT64_C(0x2EE0079721FEEAF9)}, {46995, INT64_C(0x2E27C5F48D42B736)},
    {46733, INT64_C(0x2D709419FAA1B8C7)}, {46474, INT64_C(0x2CBA781A8F971292)}, {46218, INT64_C(0x2C057815DA92D66B)},
    {45965, INT64_C(0x2B519A377DAB01C4)}, {45714, INT64_C(0x2A9E2D36D8D242D3)}, {45467, INT64_C(0x29ECA5576A01E271)},
    {45222, INT64_C(0x293B98E764B74584)}, {44979, INT64_C(0x288B0B40A4E6511E)}, {44739, INT64_C(0x27DBBB477ABA3AD7)},
    {44502, INT64_C(0x272DAF6B3615A7EA)}, {44267, INT64_C(0x268030A55D1301BE)}, {44035, INT64_C(0x25D400F9B470D04C)},
    {43805, INT64_C(0x252867762744BA16)}, {43577, INT64_C(0x247D67B238885125)}, {43352, INT64_C(0x23D3C6CF1123E8A9)},
    {43129, INT64_C(0x232AC8F73653B4A2)}, {42908, INT64_C(0x228271DE4A6AF51E)}, {42690, INT64_C(0x21DB89C16CF0015C)},
    {42474, INT64_C(0x213551E5CD5CA853)}, {42260, INT64_C(0x208FCE19BD036F7C)}, {42048, INT64_C(0x1FEB0233E607CC5C)},
    {41838, INT64_C(0x1F46F2132F011A83)}, {41631, INT64_C(0x1EA46B1EFEE0B5B4)}, {41425, INT64_C(0x1E01DF461B447355)},
    {41222, INT64_C(0x1D60E67F7D9C1B3F)}, {41020, INT64_C(0x1CBFEEC9D9F85237)}, {40820, INT64_C(0x1C1FC6AAF275A156)},
    {40623, INT64_C(0x1B8140B0B1699381)}, {40427, INT64_C(0x1AE2C4EF670D946A)}, {40233, INT64_C(0x1A452502E3B6C4D0)},
    {40041, INT64_C(0x19A8650DEA53F85C)}, {39851, INT64_C(0x190C8939F9C899AE)}, {39662, INT64_C(0x1870C2372DA88304)},
    {39476, INT64_C(0x17D6BA3CA876D167)}, {39291, INT64_C(0x173CCD874E2D0CD8)}, {39108, INT64_C(0x16A3D3DAAEAF875E)},
    {38926, INT64_C(0x160AFA00A4C37272)}, {38746, INT64_C(0x157319C8DB43C996)}, {38568, INT64_C(0x14DC378969B1C136)},
    {38392, INT64_C(0x1446579DC223DD8F)}, {38217, INT64_C(0x13B0A2E755CA694F)}, {38044, INT64_C(0x131BF74D17CB95AD)},
    {37872, INT64_C(0x12877BBC0B6BA5F4)}, {37702, INT64_C(0x11F41025D4CC4E7C)}, {37533, INT64_C(0x1160D98249F570D1)},
    {37366, INT64_C(0x10CEB9CDBF2990D3)}, {37200, INT64_C(0x103CD40A51AC0D4C)}, {37036, INT64_C(0xFAC0C3EBFBEEF49)},
    {36873, INT64_C(0xF1B83771823FDA1)},  {36712, INT64_C(0xE8C1FC3F539BE29)},  {36552, INT64_C(0xDFD003B39551151)},
    {36393, INT64_C(0xD6E26772BA705F3)},  {36236, INT64_C(0xCE07B96A3EEA47B)},  {36080, INT64_C(0xC531BBD48AE145E)},
    {35926, INT64_C(0xBC6F212ECE08710)},  {35772, INT64_C(0xB3A2E4485C9348E)},  {35620, INT64_C(0xAAEA602617DAEB1)},
    {35470, INT64_C(0xA245E01E54ED8C0)},  {35320, INT64_C(0x9997FFBDE8F8C14)},  {35172, INT64_C(0x90FE7AE1F4641D6)},
    {35026, INT64_C(0x88799D9AE233A94)},  {34880, INT64_C(0x7FEBA4466E4C0CE)},  {34735, INT64_C(0x7763936EE813BB1)},
    {34592, INT64_C(0x6EF0AFF113D05CF)},  {34450, INT64_C(0x66840ED58B69E2E)},  {34309, INT64_C(0x5E1DCD68073AAC0)},
    {34169, INT64_C(0x55BE092CA1959DE)},  {34031, INT64_C(0x4D7447EA3E9DB82)},  {33893, INT64_C(0x4521E78E0185426)},
    {33757, INT64_C(0x3CE5E65024F8A2D)},  {33622, INT64_C(0x34B0FA8FF1792B4)},  {33487, INT64_C(0x2C739AED9EB1C35)},
    {33354, INT64_C(0x244D263E61CBBAF)},  {33222, INT64_C(0x1C2E238417CED5F)},  {33091, INT64_C(0x1416B1F906AEDB8)},
    {32961, INT64_C(0xC06F109E6119DD)},   {32832, INT64_C(0x3FF005535621CD)}};

static int64_t multiply_high(int64_t a, int64_t b)
{
    return (int64_t)((fb_signed_wide)a * b >> 64);
}

/* -ln(m / 2^64) in Q63, m at least 2^63. With c the inverse of the cell's middle, ln(c) - ln(1 + r), r = c m - 1: in
 * Q70 the 1 is 2^70, which leaves the lower 64 bits of the product, and |r| < 2^-7.9 has room in them. */
static int64_t negative_log(uint64_t m)
{
    const log_cell *cell = &cells[m >> (63 - CELL_BITS) & ((1 << CELL_BITS) - 1)];
    const int64_t r = (int64_t)((m >> 9) * cell->inverse), one = INT64_MAX; /* 2^63 - 1 */
    int64_t sum = one / 6;
    for (int n = 5; n >= 2; n--)
        sum = one / n - (multiply_high(r, sum) >> 6); /* Q70 * Q63 -> Q69 -> Q63 */
    return cell->log - (r >> 7) + (multiply_high(r, multiply_high(r, sum)) >> 12);
}

/* G = -ln(2^exponent * m / 2^64) */
static int64_t finish(uint64_t m, int exponent)
{
    const fb_signed_wide g = (negative_log(m) >> 7) - (fb_signed_wide)exponent * LN_2_Q56;
    const int drop = 56 - FB_GUMBEL_FRACTION_BITS;
    return (int64_t)((g + (INT64_C(1) << (drop - 1))) >> drop);
}

/* K = 0 and y < 2^-8, whose first 56 bits after a 0 are given. */
static int64_t draw_small(uint64_t top, fb_noise *noise)
{
    int exponent = 64 - Y_BITS;
    for (; top == 0 && exponent > EXPONENT_MIN; exponent -= 64)
        top = fb_noise_word(noise);
    fb_wide y = (fb_wide)top << 64 | fb_noise_word(noise);
    y += y == 0;
    for (; y >> 127 == 0; y <<= 1)
        exponent--;
    const uint64_t mantissa = (uint64_t)(y >> 64), fraction = -exponent < 64 ? mantissa >> -exponent : 0; /* y in Q64 */
    uint64_t sum = UINT64_MAX / 7;
    for (unsigned n = 6; n >= 2; n--)
        sum = UINT64_MAX / n + fb_fixed_mul_high(fraction, sum);
    fb_wide product = (fb_wide)mantissa + fb_fixed_mul_high(mantissa, fb_fixed_mul_high(fraction, sum));
    for (; product >> 64 != 0; product >>= 1)
        exponent++;
    return finish((uint64_t)product, exponent);
}

/* The zeros before the first 1 of a random string that begins with a byte of them. */
static __attribute__((noinline)) uint64_t count_zeros(fb_noise *noise)
{
    uint64_t zeros = 8;
    for (int i = 1; i < ZERO_BYTES_MAX; i++, zeros += 8) {
        const uint8_t byte = fb_noise_byte(noise);
        if (byte != 0)
            return zeros + (uint64_t)__builtin_ctz(byte);
    }
    return zeros;
}

int64_t fb_gumbel_draw(fb_noise *noise)
{
    fb_noise_reserve(noise, WORD_BYTES);
    const uint64_t word = fb_noise_take(noise, WORD_BYTES), top = word >> 8;
    const uint64_t zeros = (word & 0xFF) != 0 ? (uint64_t)__builtin_ctzll(word) : count_zeros(noise);
    if (__builtin_expect(zeros == 0 && top < UINT64_C(1) << (Y_BITS - 8), 0))
        return draw_small(top, noise);
    const uint64_t rest = -((top << 7) + (1 << 6)); /* 1 - y, y in the middle of its cell */
    const int drop = zeros < ZEROS_SMALL ? 0 : 10;  /* E in Q57 or Q47 */
    const uint64_t e = zeros * (LN_2_Q57 >> drop) + (uint64_t)(negative_log(rest) >> (6 + drop));
    const int shift = __builtin_clzll(e);
    return finish(e << shift, 7 + drop - shift);
}
