# Makes `find_package(GTest)` build Debian's sources of GoogleTest: its compiled package is for this machine only.
include(FetchContent)
set(INSTALL_GTEST OFF)
set(BUILD_GMOCK OFF)
FetchContent_Declare(GTest SOURCE_DIR /usr/src/googletest OVERRIDE_FIND_PACKAGE)
