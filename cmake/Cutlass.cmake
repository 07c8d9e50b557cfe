# Looks for the headers of CUTLASS 4, which fused_linear is built with. Sets cutlass_include and cutlass_version; the
# latter is empty where there are none.
set(SC_CUTLASS_DIR "" CACHE STRING
  "CUTLASS: its folder, or a wheel of nvidia-cutlass; OFF for none; empty for what the Python of this build has")

set(cutlass_version "")
unset(cutlass_include)
set(cutlass_root "")
set(cutlass_reason "no CUTLASS found: see SC_CUTLASS_DIR")
if(SC_CUTLASS_DIR MATCHES "\\.whl$")
  get_filename_component(wheel "${SC_CUTLASS_DIR}" NAME)
  set(cutlass_root "${CMAKE_BINARY_DIR}/${wheel}")
  if(NOT IS_DIRECTORY "${cutlass_root}")
    file(ARCHIVE_EXTRACT INPUT "${SC_CUTLASS_DIR}" DESTINATION "${cutlass_root}"
      PATTERNS "cutlass_library/source/include/*")
  endif()
elseif(SC_CUTLASS_DIR STREQUAL "OFF")
  set(cutlass_reason "SC_CUTLASS_DIR=OFF")
elseif(SC_CUTLASS_DIR)
  set(cutlass_root "${SC_CUTLASS_DIR}")
else()
  execute_process(
    COMMAND ${Python_EXECUTABLE} -c
      "from importlib.util import find_spec; print(find_spec('cutlass_library').submodule_search_locations[0], end='')"
    OUTPUT_VARIABLE cutlass_root ERROR_QUIET)
endif()
if(cutlass_root)
  find_path(cutlass_include cutlass/version.h NO_CACHE NO_DEFAULT_PATH
    PATHS "${cutlass_root}" "${cutlass_root}/cutlass_library" PATH_SUFFIXES include source/include)
  if(cutlass_include)
    file(STRINGS "${cutlass_include}/cutlass/version.h" defined REGEX "#define CUTLASS_(MAJOR|MINOR|PATCH) ")
    string(REGEX MATCHALL "[0-9]+" numbers "${defined}")
    list(JOIN numbers "." cutlass_version)
  endif()
  if(NOT cutlass_version MATCHES "^4\\.")
    set(cutlass_reason "no headers of CUTLASS 4 in ${cutlass_root}")
    set(cutlass_version "")
    if(SC_CUTLASS_DIR)
      message(FATAL_ERROR "SC_CUTLASS_DIR=${SC_CUTLASS_DIR}: ${cutlass_reason}")
    endif()
  endif()
endif()
if(cutlass_version)
  message(STATUS "streamchar: fused linear layers: yes, with CUTLASS ${cutlass_version}; they take minutes to compile")
else()
  message(STATUS "streamchar: fused linear layers: no (${cutlass_reason}); torch's stand in")
endif()
