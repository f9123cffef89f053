# Sourced by the shell that types the commands: smaller counts behind what is typed, so that all of them take minutes on
# two cores. The last of a repeated flag counts. `first_hour.py --full` leaves this file out.
sizes=(--experts.count 2 --distill.iterations 60 --evaluation.networks 2 --evaluation.recipe.epochs 60)

astdistill() {
  case "$1" in
    run | experts | distill | demo) command astdistill "$@" "${sizes[@]}" ;;
    tune) command astdistill "$@" --experts.count 2 --trials 3 --steps 8 --distill.validate-epochs 60 ;;
    evaluate) command astdistill "$@" --epochs 60 --networks 2 ;;
    *) command astdistill "$@" ;;
  esac
}
