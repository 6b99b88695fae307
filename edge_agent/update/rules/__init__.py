"""The rules of what an update may do, and when. Pure: no disk, no network, no clock of its own.

machine         the update machine of one model; `model_state` is what it changes, `probation` how one ends
install_window  what makes a new install wait: the channel's window, and the day's budget
notice_backoff  how soon a notice may end what is under way
hints           what somebody must do about metadata that does not come or cannot be used
"""
