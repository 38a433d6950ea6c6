dnl SPDX-License-Identifier: MIT
dnl
dnl SFS_CHECK_CFLAGS(VARIABLE, FLAGS)
dnl Append to VARIABLE each of FLAGS that the C compiler takes without complaint.
AC_DEFUN([SFS_CHECK_CFLAGS],
[for sfs_flag in m4_normalize([$2]); do
  AC_MSG_CHECKING([whether $CC takes $sfs_flag])
  sfs_cflags_save=$CFLAGS
  # gcc is silent about unknown -Wno-x flags, so the positive form is the one to try.
  AS_CASE([$sfs_flag],
    [-Wno-*], [CFLAGS="$CFLAGS -Werror -W`AS_ECHO(["$sfs_flag"]) | sed 's/^-Wno-//'`"],
    [CFLAGS="$CFLAGS -Werror $$1 $sfs_flag"])
  AC_COMPILE_IFELSE([AC_LANG_SOURCE([[int sfs_dummy;]])],
    [AC_MSG_RESULT([yes])
     AS_VAR_APPEND([$1], [" $sfs_flag"])],
    [AC_MSG_RESULT([no])])
  CFLAGS=$sfs_cflags_save
done])
